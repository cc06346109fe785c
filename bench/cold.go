//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// childDelays are the times after which the child of a cold start listens.
var childDelays = []time.Duration{0, 20 * time.Millisecond, 300 * time.Millisecond}

// coldTime bounds one start and one stop each.
const coldTime = 10 * time.Second

// coldStarts is what was seen of many starts of one kind of child: how long
// the first byte took, without the time that the child itself took from exec
// until it listened.
type coldStarts struct {
	Delay        time.Duration
	Starts       int
	Median       time.Duration
	P90, P99     time.Duration
	Max          time.Duration
	MedianChild  time.Duration // the child's own time
	WithoutProxy time.Duration // median from before fork to exec of the same child
}

// coldStarts starts children, each with a client of its own.
func (b *bench) coldStarts(ctx context.Context, s subject) error {
	for _, delay := range childDelays {
		one, err := b.coldStartsOf(ctx, s, delay)
		if err != nil {
			return fmt.Errorf("cold starts of %s: %w", s.name, err)
		}
		b.results.Cold[s.name] = append(b.results.Cold[s.name], one)
	}
	return nil
}

func (b *bench) coldStartsOf(ctx context.Context, s subject, delay time.Duration) (coldStarts, error) {
	bind, dest, err := freePorts()
	if err != nil {
		return coldStarts{}, err
	}
	child, err := roleLine("late", dest, delay.String())
	if err != nil {
		return coldStarts{}, err
	}
	p, log, err := b.sleeper(s, route{dir: b.dir, bind: bind, dest: dest, server: child})
	if err != nil {
		return coldStarts{}, err
	}
	defer p.stop()
	defer log.Close()
	var over, own []time.Duration
	for range b.starts {
		if ctx.Err() != nil {
			return coldStarts{}, context.Cause(ctx)
		}
		whole, its, err := firstByte(bind)
		if err != nil {
			return coldStarts{}, err
		}
		over, own = append(over, whole-its), append(own, its)
		if err := log.await("closed"); err != nil {
			return coldStarts{}, err
		}
	}
	bare, err := bareStarts(min(b.starts, 50))
	slices.Sort(over)
	slices.Sort(own)
	return coldStarts{
		Delay: delay, Starts: len(over), Median: share(over, 0.5), P90: share(over, 0.9), P99: share(over, 0.99), Max: over[len(over)-1],
		MedianChild: share(own, 0.5), WithoutProxy: bare,
	}, err
}

// sleeper starts tiproxy such that it puts its child to sleep at once. It
// returns when tiproxy listens.
func (b *bench) sleeper(s subject, r route) (*program, *logReader, error) {
	line, err := s.command(r)
	if err != nil {
		return nil, nil, err
	}
	line = slices.Insert(line, 1, "--idle", "1ms")
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer write.Close()
	p, err := spawnTo(r.dir, line, write)
	if err != nil {
		read.Close()
		return nil, nil, err
	}
	log := &logReader{File: read, lines: bufio.NewScanner(read)}
	if err := log.await("listening"); err != nil {
		p.stop()
		log.Close()
		return nil, nil, err
	}
	return p, log, nil
}

// logReader reads tiproxy's log in JSON.
type logReader struct {
	*os.File
	lines *bufio.Scanner
}

// await reads until there is a line with this message.
func (l *logReader) await(msg string) error {
	if err := l.SetReadDeadline(time.Now().Add(coldTime)); err != nil {
		return err
	}
	for l.lines.Scan() {
		var line struct{ Msg string }
		if json.Unmarshal(l.lines.Bytes(), &line) != nil {
			continue // the child's
		}
		switch line.Msg {
		case msg:
			return nil
		case "start failed":
			return fmt.Errorf("tiproxy says: %s", l.lines.Bytes())
		}
	}
	return fmt.Errorf("tiproxy never said %q: %w", msg, l.lines.Err())
}

// firstByte connects to a service that sleeps. It returns how long its first
// byte took, and how long its child took for itself.
func firstByte(addr string) (whole, its time.Duration, err error) {
	begun := monotonic()
	c, err := net.DialTimeout("tcp4", addr, coldTime)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(coldTime)); err != nil {
		return 0, 0, err
	}
	said := make([]byte, 128)
	n, err := c.Read(said)
	whole = time.Duration(monotonic() - begun)
	if err != nil {
		return 0, 0, err
	}
	var from, until int64
	if _, err := fmt.Sscan(string(said[:n]), &from, &until); err != nil {
		return 0, 0, fmt.Errorf("the child said %q: %w", said[:n], err)
	}
	return whole, time.Duration(until - from), nil
}

// bareStarts is the median time that it takes to have a child executed: a part of
// every start.
func bareStarts(n int) (time.Duration, error) {
	line, err := roleLine("clock")
	if err != nil {
		return 0, err
	}
	var all []time.Duration
	for range n {
		begun := monotonic()
		out, err := exec.Command(line[0], line[1:]...).Output()
		if err != nil {
			return 0, err
		}
		var then int64
		if _, err := fmt.Sscan(strings.TrimSpace(string(out)), &then); err != nil {
			return 0, err
		}
		all = append(all, time.Duration(then-begun))
	}
	slices.Sort(all)
	return share(all, 0.5), nil
}

// share returns the value that a share of all, which are sorted, do not exceed.
func share(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)-1))]
}
