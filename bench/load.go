//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The kinds of load.
const (
	kept   = "kept"   // requests on connections that stay
	fresh  = "fresh"  // a connection for each request, closed by the server
	single = "single" // requests on one connection, by a client that blocks
	bulk   = "bulk"   // whatever comes
)

// load is what the clients do. They run in one thread, which waits for all of
// them with epoll(7), so that they take as little of the machine as they can.
type load struct {
	Kind        string
	Addr        string
	Connections int
	Request     string
	Answer      int           // its length
	Warm, Time  time.Duration // before and while it counts
}

// tally is what came of a load.
type tally struct {
	Whole   int64         // requests or bytes, those before it counted included
	Counted int64         // the same without them
	Time    time.Duration // in which they were counted
	Failed  int64         // connections that were reset or refused
	// Latency has the shares of all requests given by quantiles that took no
	// longer. Buckets counts them in steps of bucket.
	Latency []time.Duration
	Buckets []int
}

var quantiles = []float64{0.1, 0.5, 0.9, 0.99}

const (
	bucket      = 2 * time.Microsecond
	bucketsMost = 250
)

// perSecond is how many were counted in a second.
func (t tally) perSecond() float64 { return float64(t.Counted) / t.Time.Seconds() }

// elsewhere is run in a process of its own. then is called when the load is over
// and all of its connections are still there.
func (l load) elsewhere(ctx context.Context, then func() error) (t tally, err error) {
	words, err := json.Marshal(l)
	if err != nil {
		return t, err
	}
	line, err := roleLine("load", string(words))
	if err != nil {
		return t, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.Warm+l.Time+standTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	hold, err := cmd.StdinPipe()
	if err != nil {
		return t, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return t, err
	}
	if err := cmd.Start(); err != nil {
		return t, err
	}
	err = json.NewDecoder(out).Decode(&t)
	if err == nil && then != nil {
		err = then()
	}
	hold.Close()
	if ended := cmd.Wait(); ended != nil {
		return t, fmt.Errorf("clients (%s): %w: %s", l.Kind, ended, complaint.Bytes())
	}
	return t, err
}

// play does it here and tells what came of it. Its connections stay until then
// returns.
func (l load) play(tell func(tally) error, then func()) error {
	to, err := netip.ParseAddrPort(l.Addr)
	if err != nil {
		return err
	}
	g := generator{load: l, to: &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}, buf: make([]byte, 256<<10)}
	if l.Kind == single {
		err = g.runSingle()
	} else {
		err = g.runMany()
	}
	if err != nil {
		return err
	}
	g.sum.Latency, g.sum.Buckets = g.latencies()
	err = tell(g.sum)
	then()
	return err
}

// generator makes the load. It stops counting, and ends, at until. Its
// connections end with the process.
type generator struct {
	load
	to      *unix.SockaddrInet4
	buf     []byte
	epoll   int
	slots   []slot // by descriptor
	now     time.Time
	from    time.Time // it counts from here
	until   time.Time
	samples []time.Duration
	sum     tally
}

// slot is one connection.
type slot struct {
	since time.Time // of the request, or of the connection
	got   int       // bytes of the answer
	asked bool
}

func (g *generator) begin() {
	g.now = time.Now()
	g.from = g.now.Add(g.Warm)
	g.until = g.from.Add(g.Time)
}

// count adds n to the sum.
func (g *generator) count(n int) {
	g.sum.Whole += int64(n)
	if g.now.Before(g.from) {
		return
	}
	g.sum.Counted += int64(n)
	g.sum.Time = g.now.Sub(g.from)
}

// answered counts a request that was made at since.
func (g *generator) answered(since time.Time) {
	g.count(1)
	if !g.now.Before(g.from) {
		g.samples = append(g.samples, g.now.Sub(since))
	}
}

// runSingle asks on one blocking connection.
func (g *generator) runSingle() error {
	fd, err := g.dial(0)
	if err != nil {
		return err
	}
	request := []byte(g.Request)
	for g.begin(); g.now.Before(g.until); {
		since := time.Now()
		if _, err := unix.Write(fd, request); err != nil {
			return err
		}
		for got := 0; got < g.Answer; {
			n, err := unix.Read(fd, g.buf)
			if n <= 0 && err != unix.EINTR {
				return fmt.Errorf("answer cut short: %w", cutShort(err))
			}
			got += max(n, 0)
		}
		g.now = time.Now()
		g.answered(since)
	}
	return nil
}

// runMany keeps all connections busy.
func (g *generator) runMany() error {
	var err error
	if g.epoll, err = unix.EpollCreate1(0); err != nil {
		return err
	}
	g.begin()
	for range g.Connections {
		if err := g.open(); err != nil {
			return err
		}
	}
	events := make([]unix.EpollEvent, 128)
	for g.now.Before(g.until) {
		n, err := unix.EpollWait(g.epoll, events, 100)
		if err != nil && err != unix.EINTR {
			return err
		}
		g.now = time.Now()
		for _, ev := range events[:max(n, 0)] {
			if err := g.turn(int(ev.Fd)); err != nil {
				return err
			}
		}
	}
	return nil
}

// dial makes a connection, which may not be there yet if it may not block.
func (g *generator) dial(flags int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, g.to); err != nil && err != unix.EINPROGRESS {
		return 0, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}

// open makes one more connection.
func (g *generator) open() error {
	fd, err := g.dial(unix.SOCK_NONBLOCK)
	if err != nil {
		return err
	}
	if more := fd + 1 - len(g.slots); more > 0 {
		g.slots = append(g.slots, make([]slot, more)...)
	}
	g.slots[fd] = slot{since: time.Now()}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT, Fd: int32(fd)}
	return unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd, &ev)
}

// turn goes on with a connection on which something has happened.
func (g *generator) turn(fd int) error {
	s := &g.slots[fd]
	if !s.asked {
		s.asked = true
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err := unix.EpollCtl(g.epoll, unix.EPOLL_CTL_MOD, fd, &ev); err != nil {
			return err
		}
		return g.ask(fd)
	}
	n, err := unix.Read(fd, g.buf)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return nil
	case n > 0 && g.Kind == bulk:
		g.count(n)
		return nil
	case n > 0:
		s.got += n
		if g.Kind == kept && s.got >= g.Answer {
			g.answered(s.since)
			s.got = 0
			return g.ask(fd)
		}
		return nil
	case err == nil && g.Kind == fresh && s.got > 0:
		g.answered(s.since)
		return g.again(fd)
	case g.Kind == fresh:
		g.sum.Failed++
		return g.again(fd)
	}
	return fmt.Errorf("answer cut short: %w", cutShort(err))
}

// ask sends a request, which fits into the socket.
func (g *generator) ask(fd int) error {
	if g.Kind != fresh {
		g.slots[fd].since = time.Now()
	}
	_, err := unix.Write(fd, []byte(g.Request))
	if err != nil && g.Kind == fresh {
		g.sum.Failed++
		return g.again(fd)
	}
	return err
}

// again puts a new connection in the place of one that is over.
func (g *generator) again(fd int) error {
	unix.Close(fd)
	return g.open()
}

// latencies sorts out what the samples say.
func (g *generator) latencies() (shares []time.Duration, buckets []int) {
	if len(g.samples) == 0 {
		return nil, nil
	}
	slices.Sort(g.samples)
	for _, q := range quantiles {
		shares = append(shares, g.samples[int(q*float64(len(g.samples)-1))])
	}
	if g.Kind == single {
		buckets = make([]int, bucketsMost)
		for _, d := range g.samples {
			buckets[min(int(d/bucket), bucketsMost-1)]++
		}
	}
	return shares, buckets
}

// cutShort names the end of a stream that was to go on.
func cutShort(err error) error {
	if err == nil {
		return unix.ECONNABORTED
	}
	return err
}
