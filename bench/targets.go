//go:build linux

package main

import (
	"fmt"
	"time"
)

// target is something that tiproxy is to reach.
type target struct {
	what, wanted string
	got          string
	met          bool
}

// The targets of the copying path, as ratios to HAProxy, and of the direct path,
// as ratios to no proxy.
var (
	copyTargets = []struct {
		measure
		least float64
	}{{oneStream, 1}, {eightStreams, 1}, {redisRequests, 0.9}, {httpRequests, 0.9}, {newConnections, 0.85}}
	directLeast = 0.97
)

const (
	coldMedian     = 3 * time.Millisecond
	coldP99        = 10 * time.Millisecond
	idleMost       = 10.0 // KiB
	asleepMost     = 15 << 20
	asleepSwitches = 3.0 // a minute
)

// targets says how far tiproxy is.
func (r *results) targets() []target {
	var all []target
	for _, who := range r.ours() {
		direct := who == ours+" direct"
		if direct {
			for _, m := range speeds {
				all = r.addRatio(all, who, noProxy, m, directLeast)
			}
		} else {
			for _, t := range copyTargets {
				all = r.addRatio(all, who, theHAProxy, t.measure, t.least)
			}
		}
		all = append(all, r.idleTargets(who, direct)...)
		all = append(all, r.coldTargets(who)...)
		all = append(all, r.asleepTargets(who)...)
	}
	return all
}

func (r *results) addRatio(all []target, who, to string, m measure, least float64) []target {
	s, ok := r.ratio(who, to, m)
	if !ok {
		return all
	}
	return append(all, target{
		what:   fmt.Sprintf("%s: %s", who, m.plain()),
		wanted: fmt.Sprintf("≥ %.2f × %s", least, to),
		got:    s.show(1, 2), met: s.median >= least,
	})
}

func (r *results) idleTargets(who string, direct bool) []target {
	fds, ok := r.spread(who, idleDescriptors)
	kib, _ := r.spread(who, idleBytes)
	if !ok {
		return nil
	}
	most, size := 2.0, idleMost
	if direct {
		most, size = 0, 0
	}
	const measurable = 0.05 // beyond that it rounds to something else
	return []target{
		{who + ": descriptors of an idle connection", fmt.Sprintf("≤ %.0f", most), fds.show(1, 1), fds.median < most+measurable},
		{who + ": memory of an idle connection, KiB", fmt.Sprintf("≤ %.0f", size), kib.show(1, 1), kib.median < size+measurable},
	}
}

func (r *results) coldTargets(who string) []target {
	var all []target
	for _, c := range r.Cold[who] {
		all = append(all, target{
			what:   fmt.Sprintf("%s: cold start, a child that listens after %d ms", who, c.Delay.Milliseconds()),
			wanted: fmt.Sprintf("median ≤ %d ms, p99 ≤ %d ms", coldMedian.Milliseconds(), coldP99.Milliseconds()),
			got:    fmt.Sprintf("median %s ms, p99 %s ms", millis(c.Median), millis(c.P99)),
			met:    c.Median <= coldMedian && c.P99 <= coldP99,
		})
	}
	return all
}

func (r *results) asleepTargets(who string) []target {
	a, ok := r.Asleep[who]
	if !ok {
		return nil
	}
	return []target{
		{who + ": context switches asleep, a minute", fmt.Sprintf("≤ %.0f", asleepSwitches), fmt.Sprintf("%.1f", a.perMinute()), a.perMinute() <= asleepSwitches},
		{who + ": resident asleep, MiB", fmt.Sprintf("≤ %d", asleepMost>>20), mebibytes(a.Resident), a.Resident <= asleepMost},
	}
}

// perMinute is how often it woke up.
func (a asleep) perMinute() float64 { return float64(a.Switches) / a.Span.Minutes() }

// ours returns tiproxy's subjects.
func (r *results) ours() []string {
	var all []string
	for _, s := range r.Subjects {
		if len(s) > len(ours) && s[:len(ours)] == ours {
			all = append(all, s)
		}
	}
	return all
}

func millis(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()*1000) }

func mebibytes(n int) string { return fmt.Sprintf("%.1f", float64(n)/(1<<20)) }
