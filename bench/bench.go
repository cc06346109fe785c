//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	warmTime     = 200 * time.Millisecond
	keptClients  = 32
	freshClients = 16
	manyStreams  = 8
	quietTime    = 2 * time.Second // until idle connections count as idle
	asleepTime   = 30 * time.Second
	asleepCalm   = 5 * time.Second // from falling asleep until it counts
)

// bench is one run.
type bench struct {
	options
	dir      string
	subjects []subject
	results  *results
}

func newBench(o options, dir string) (*bench, error) {
	b := &bench{options: o, dir: dir}
	can, leftOut := o.subjects()
	b.subjects = can
	b.results = newResults(o, can, leftOut)
	for _, line := range [][]string{{"redis-server", "--version"}, {"nginx", "-v"}} {
		if firstMatch(`(.)`, line...) == "" {
			return nil, fmt.Errorf("%s is not installed: it is one of the servers behind the proxies", line[0])
		}
	}
	if !slices.ContainsFunc(can, func(s subject) bool { return s.starts }) {
		return nil, fmt.Errorf("%s is no tiproxy, or has none of the paths %q", o.tiproxy, o.paths)
	}
	return b, nil
}

// measure measures everything.
func (b *bench) measure(ctx context.Context) error {
	for round := range b.rounds {
		for _, to := range []server{redis, nginx, flood} {
			if err := b.everybody(ctx, fmt.Sprintf("round %d of %d, %s", round+1, b.rounds, to.name), round, func(s subject) error {
				return b.carry(ctx, round, s, to)
			}); err != nil {
				return err
			}
		}
	}
	if err := b.everybody(ctx, fmt.Sprintf("%d idle connections", b.idle), 0, func(s subject) error { return b.holdIdle(ctx, s) }); err != nil {
		return err
	}
	return b.everybody(ctx, "cold starts and sleep", 0, func(s subject) error {
		if !s.starts {
			return nil
		}
		return errors.Join(b.coldStarts(ctx, s), b.sleep(ctx, s))
	})
}

// everybody does the same with each subject, beginning with another one in each
// round. A peer with which it fails is left out from then on; without no proxy,
// HAProxy or tiproxy there is nothing to compare.
func (b *bench) everybody(ctx context.Context, what string, round int, do func(subject) error) error {
	fmt.Fprintln(os.Stderr, "bench:", what)
	all := slices.Clone(b.subjects)
	first := round % len(all)
	for _, s := range append(slices.Clone(all[first:]), all[:first]...) {
		err := do(s)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case s.name == noProxy || s.name == theHAProxy || s.name == ours+" copy":
			return fmt.Errorf("%s, %s: %w", what, s.name, err)
		default:
			b.leaveOut(s, err)
		}
	}
	return nil
}

// leaveOut forgets a subject.
func (b *bench) leaveOut(s subject, why error) {
	fmt.Fprintf(os.Stderr, "bench: %s is left out: %v\n", s.name, why)
	b.subjects = slices.DeleteFunc(b.subjects, func(other subject) bool { return other.name == s.name })
	b.results.leaveOut(s.name, strings.ReplaceAll(why.Error(), "\n", " "))
}

// carry measures one subject in front of one server.
func (b *bench) carry(ctx context.Context, round int, s subject, to server) error {
	st, err := newStand(ctx, b.dir, s, to)
	if err != nil {
		return err
	}
	defer st.close()
	note := func(m measure, v float64) { b.results.note(s.name, m.key, round, v) }
	l := load{Addr: st.bind, Request: to.request, Answer: st.answer, Warm: min(warmTime, b.time), Time: b.time}
	switch to.name {
	case redis.name:
		return errors.Join(
			b.requests(ctx, st, l, redisRequests, redisP99, note),
			b.roundTrips(ctx, l, s.name, note))
	case nginx.name:
		return errors.Join(
			b.requests(ctx, st, l, httpRequests, httpP99, note),
			b.connections(ctx, l, note))
	default:
		return b.streams(ctx, st, l, note)
	}
}

type noter func(m measure, v float64)

// requests is for small requests on connections that stay.
func (b *bench) requests(ctx context.Context, st *stand, l load, rate, p99 measure, note noter) error {
	l.Kind, l.Connections = kept, keptClients
	t, cpu, err := st.under(ctx, l)
	if err != nil {
		return err
	}
	note(rate, t.perSecond())
	note(p99, t.Latency[len(t.Latency)-1].Seconds())
	if rate.key == redisRequests.key && st.proxy != nil {
		note(requestsCPU, cpu.Seconds()/float64(t.Whole)*100_000)
	}
	return nil
}

// under loads a stand, and says how much of a processor the proxy took. Processes
// that it has for its connections are counted while these are still there.
func (st *stand) under(ctx context.Context, l load) (t tally, cpu time.Duration, err error) {
	if st.proxy == nil {
		t, err = l.elsewhere(ctx, nil)
		return t, 0, err
	}
	before, err := st.proxy.uses()
	if err != nil {
		return t, 0, err
	}
	var after usage
	t, err = l.elsewhere(ctx, func() (err error) {
		after, err = st.proxy.uses()
		return err
	})
	return t, after.cpu - before.cpu, err
}

// roundTrips is for one connection with one request at a time.
func (b *bench) roundTrips(ctx context.Context, l load, who string, note noter) error {
	l.Kind, l.Connections = single, 1
	t, err := l.elsewhere(ctx, nil)
	if err != nil {
		return err
	}
	for i, m := range []measure{roundTripP10, roundTripP50, roundTripP90, roundTripP99} {
		note(m, t.Latency[i].Seconds())
	}
	b.results.addBuckets(who, t.Buckets)
	return nil
}

// connections is for a new connection with each request.
func (b *bench) connections(ctx context.Context, l load, note noter) error {
	l.Kind, l.Connections, l.Request = fresh, freshClients, lastRequest
	t, err := l.elsewhere(ctx, nil)
	if err != nil {
		return err
	}
	if t.Failed > 0 {
		return fmt.Errorf("%d of %d connections failed", t.Failed, t.Failed+t.Whole)
	}
	note(newConnections, t.perSecond())
	return nil
}

// streams is for bulk.
func (b *bench) streams(ctx context.Context, st *stand, l load, note noter) error {
	const gigabyte = 1e9
	l.Kind = bulk
	l.Connections = 1
	t, cpu, err := st.under(ctx, l)
	if err != nil {
		return err
	}
	note(oneStream, t.perSecond()/gigabyte)
	if st.proxy != nil {
		note(bulkCPU, cpu.Seconds()/(float64(t.Whole)/gigabyte))
	}
	l.Connections = manyStreams
	if t, err = l.elsewhere(ctx, nil); err != nil {
		return err
	}
	note(eightStreams, t.perSecond()/gigabyte)
	return nil
}

// holdIdle finds out what a connection costs on which nothing happens.
func (b *bench) holdIdle(ctx context.Context, s subject) error {
	st, err := newStand(ctx, b.dir, s, redis)
	if err != nil || st.proxy == nil {
		if st != nil {
			st.close()
		}
		return err
	}
	defer st.close()
	before, err := st.proxy.uses()
	if err != nil {
		return err
	}
	for range b.idle {
		c, err := hold(st.bind)
		if err != nil {
			return err
		}
		defer c.Close() // all of them stay until it is measured
	}
	if err := rest(ctx, min(quietTime, 10*b.time)); err != nil {
		return err
	}
	after, err := st.proxy.uses()
	if err != nil {
		return err
	}
	b.results.note(s.name, idleBytes.key, 0, float64(after.resident-before.resident)/1024/float64(b.idle))
	b.results.note(s.name, idleDescriptors.key, 0, float64(after.descriptors-before.descriptors)/float64(b.idle))
	return nil
}

// hold returns a connection on which one request was answered.
func hold(addr string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp4", addr, standTime)
	if err != nil {
		return nil, err
	}
	err = c.SetDeadline(time.Now().Add(standTime))
	if err == nil {
		_, err = c.Write([]byte(redis.request))
	}
	if err == nil {
		_, err = c.Read(make([]byte, 64))
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("idle connection: %w", err)
	}
	return c, nil
}

// sleep finds out what tiproxy costs while its child is stopped.
func (b *bench) sleep(ctx context.Context, s subject) error {
	bind, dest, err := freePorts()
	if err != nil {
		return err
	}
	child, err := roleLine("late", dest, "0s")
	if err != nil {
		return err
	}
	p, log, err := b.sleeper(s, route{dir: b.dir, bind: bind, dest: dest, server: child})
	if err != nil {
		return err
	}
	defer p.stop()
	defer log.Close()
	if _, _, err := firstByte(bind); err != nil {
		return err
	}
	if err := log.await("closed"); err != nil {
		return err
	}
	span := min(asleepTime, 40*b.time)
	if err := rest(ctx, min(asleepCalm, 10*b.time)); err != nil {
		return err
	}
	before, err := p.uses()
	if err != nil {
		return err
	}
	if err := rest(ctx, span); err != nil {
		return err
	}
	after, err := p.uses()
	b.results.Asleep[s.name] = asleep{
		Span: span, Switches: after.switches - before.switches, Resident: residentSet(p.cmd.Process.Pid),
	}
	return err
}

// rest waits.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
