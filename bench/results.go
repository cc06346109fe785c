//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// measure is one kind of value.
type measure struct {
	key, title string
	unit       float64 // what the value is divided by to be shown
	digits     int     // behind the point
}

var (
	redisRequests   = measure{"redis_requests_per_second", "Redis PING, 32 connections, 1000/s", 1000, 1}
	redisP99        = measure{"redis_p99_seconds", "p99 of 32 on Redis, ms", 1e-3, 2}
	httpRequests    = measure{"http_requests_per_second", "HTTP GET, 32 connections, 1000/s", 1000, 1}
	httpP99         = measure{"http_p99_seconds", "p99 of 32 on HTTP, ms", 1e-3, 2}
	newConnections  = measure{"new_connections_per_second", "new connections, 1000/s", 1000, 2}
	oneStream       = measure{"bulk_1_gigabytes_per_second", "bulk, 1 stream, GB/s", 1, 2}
	eightStreams    = measure{"bulk_8_gigabytes_per_second", "bulk, 8 streams, GB/s", 1, 2}
	roundTripP10    = measure{"round_trip_p10_seconds", "p10", 1e-6, 0}
	roundTripP50    = measure{"round_trip_p50_seconds", "median", 1e-6, 0}
	roundTripP90    = measure{"round_trip_p90_seconds", "p90", 1e-6, 0}
	roundTripP99    = measure{"round_trip_p99_seconds", "p99", 1e-6, 0}
	requestsCPU     = measure{"cpu_seconds_per_100000_requests", "CPU, s per 100,000 requests", 1, 2}
	bulkCPU         = measure{"cpu_seconds_per_gigabyte", "CPU, s per GB", 1, 3}
	idleBytes       = measure{"idle_kibibytes_per_connection", "memory of an idle connection, KiB", 1, 1}
	idleDescriptors = measure{"idle_descriptors_per_connection", "descriptors of an idle connection", 1, 1}
)

// plain is the title without the unit, for ratios.
func (m measure) plain() string {
	title, _, _ := strings.Cut(m.title, ", 1000/s")
	title, _, _ = strings.Cut(title, ", GB/s")
	return title
}

// speeds are the measures of which more is better, and which ratios are made of.
var speeds = []measure{redisRequests, httpRequests, newConnections, oneStream, eightStreams}

// results are all values of a run, as they are written in JSON.
type results struct {
	Kernel   string
	CPUs     int
	Model    string // of the processor
	Go       string
	Servers  map[string]string // versions
	Rounds   int
	Each     time.Duration // of one measurement
	Idle     int           // connections
	Load     [2]string     // load averages of the last minute, before and after
	Subjects []string
	Versions map[string]string
	LeftOut  []string
	// Values holds, for each subject and measure, the value of each round.
	Values map[string]map[string][]float64
	// RoundTrips counts round trips in steps of two microseconds; the last one
	// holds all that took longer.
	RoundTrips map[string][]int
	Cold       map[string][]coldStarts
	Asleep     map[string]asleep
}

// asleep is what tiproxy did while nobody wanted anything.
type asleep struct {
	Span     time.Duration
	Switches int // context switches
	Resident int // bytes
}

func newResults(o options, can []subject, leftOut []string) *results {
	r := &results{
		Kernel: kernel(), CPUs: runtime.NumCPU(), Model: firstMatch(`model name\s*: (.*)`, "cat", "/proc/cpuinfo"), Go: runtime.Version(),
		Servers: map[string]string{
			"redis": firstMatch(`v=(\S+)`, "redis-server", "--version"),
			"nginx": firstMatch(`nginx/(\S+)`, "nginx", "-v"),
		},
		Rounds: o.rounds, Each: o.time, Idle: o.idle, LeftOut: leftOut,
		Versions: map[string]string{}, Values: map[string]map[string][]float64{}, RoundTrips: map[string][]int{},
		Cold: map[string][]coldStarts{}, Asleep: map[string]asleep{},
	}
	for _, s := range can {
		r.Subjects = append(r.Subjects, s.name)
		r.Versions[s.name] = s.version
		r.Values[s.name] = map[string][]float64{}
	}
	r.Load[0] = loadAverage()
	return r
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := bytes.Cut(text, []byte(" "))
	return string(first)
}

// note adds the value of a round. Whoever was measured in a round was measured
// in all before it.
func (r *results) note(who, key string, round int, v float64) {
	if all := r.Values[who][key]; len(all) == round {
		r.Values[who][key] = append(all, v)
	}
}

func (r *results) addBuckets(who string, buckets []int) {
	if r.RoundTrips[who] == nil {
		r.RoundTrips[who] = make([]int, len(buckets))
	}
	for i, n := range buckets {
		r.RoundTrips[who][i] += n
	}
}

// leaveOut forgets what was measured of somebody who failed later.
func (r *results) leaveOut(who, why string) {
	r.Subjects = slices.DeleteFunc(r.Subjects, func(s string) bool { return s == who })
	r.LeftOut = append(r.LeftOut, who+": "+why)
	delete(r.Values, who)
	delete(r.RoundTrips, who)
	delete(r.Cold, who)
	delete(r.Asleep, who)
}

// spread is a median and what it lies between.
type spread struct{ low, median, high float64 }

// of returns the spread of values; false when there are none.
func of(values []float64) (spread, bool) {
	if len(values) == 0 {
		return spread{}, false
	}
	s := slices.Sorted(slices.Values(values))
	middle := len(s) / 2
	median := s[middle]
	if len(s)%2 == 0 {
		median = (s[middle-1] + s[middle]) / 2
	}
	return spread{s[0], median, s[len(s)-1]}, true
}

// show prints a spread: the median, and lowest and highest if there were several.
func (s spread) show(unit float64, digits int) string {
	text := decimal(s.median/unit, digits)
	if s.low == s.high {
		return text
	}
	return fmt.Sprintf("%s (%s–%s)", text, decimal(s.low/unit, digits), decimal(s.high/unit, digits))
}

// decimal writes v with so many digits behind the point. Nothing is "-0.0".
func decimal(v float64, digits int) string {
	if text := fmt.Sprintf("%.*f", digits, v); strings.Trim(text, "-0.") != "" {
		return text
	}
	return fmt.Sprintf("%.*f", digits, 0.0)
}

// spread returns the spread of a measure.
func (r *results) spread(who string, m measure) (spread, bool) { return of(r.Values[who][m.key]) }

// ratio returns the spread of the ratios of two subjects in the same round.
func (r *results) ratio(who, to string, m measure) (spread, bool) {
	var all []float64
	a, b := r.Values[who][m.key], r.Values[to][m.key]
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			all = append(all, a[i]/b[i])
		}
	}
	return of(all)
}

func (r *results) json() ([]byte, error) { return json.MarshalIndent(r, "", "\t") }
