//go:build linux

package soak

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The same seed gives every packet the same fate, and the fates come as often
// as was asked for.
func TestLink_FatesArePlanned(t *testing.T) {
	t.Parallel()
	const n = 20000
	fates := func(seed uint64) (counts fates, order string) {
		l := &link{}
		l.weather.Store(&storm)
		w := newWay(l, nil, nil, seed)
		var b strings.Builder
		for range n {
			before := w.fates
			w.take([]byte("x"))
			fmt.Fprintf(&b, "%d%d%d", w.fates.lost-before.lost, w.fates.reordered-before.reordered, w.fates.duplicated-before.duplicated)
		}
		return w.counts(), b.String()
	}
	counts, order := fates(7)
	if _, again := fates(7); again != order {
		t.Error("the same seed made another plan")
	}
	if _, other := fates(8); other == order {
		t.Error("another seed made the same plan")
	}
	for _, f := range []struct {
		name string
		got  int64
		want float64
	}{
		{"lost", counts.lost, storm.loss * n},
		{"reordered", counts.reordered, storm.reorder * (1 - storm.loss) * n},
		{"duplicated", counts.duplicated, storm.duplicate * (1 - storm.loss) * n},
	} {
		// Five standard deviations of a binomial distribution, or a little more.
		if math.Abs(float64(f.got)-f.want) > 5*math.Sqrt(f.want) {
			t.Errorf("%d packets of %d were %s, want about %.0f", f.got, n, f.name, f.want)
		}
	}
}

// A packet is delivered when it is due, and not before.
func TestLink_DelaysAndOvertakes(t *testing.T) {
	t.Parallel()
	l := &link{}
	l.weather.Store(&weather{delay: time.Hour})
	w := newWay(l, nil, nil, 1)
	w.take([]byte("late"))
	l.weather.Store(&weather{})
	w.take([]byte("first"))
	w.take([]byte("second"))
	due, next := w.due()
	if len(due) != 2 || string(due[0].data) != "first" || string(due[1].data) != "second" {
		t.Errorf("delivered %v, want first and second", due)
	}
	if next < 50*time.Minute || next > time.Hour {
		t.Errorf("the next packet is due in %v, want about an hour", next)
	}
}

// crowd is how many connections share a big transfer: a single one's speed on
// such a link depends on the congestion control that the kernel is built with.
const crowd = 25

// Bytes arrive as they were sent, in both directions, over a link that loses,
// delays, reorders and duplicates: 5 MB each way, and 100 MB in the long form.
func TestBadLink_LosesNoByte(t *testing.T) {
	t.Parallel()
	total := int64(5 << 20)
	if longTime(t) > 0 {
		total = 100 << 20
	}
	near, far, l := joined(t, chosenSeed(t), storm)
	p := mustLaunch(t, near, childLine(manners{Listen: destAddr}))
	began := now()
	outcomes := make([]outcome, crowd)
	var all sync.WaitGroup
	for i := range outcomes {
		all.Go(func() {
			c := &client{space: far, address: at(nearIP), patience: 2 * bound}
			c.visit = visit{number: i, far: true, habit: []habit{bulk, half}[i%2], asks: []ask{{Up: total / crowd, Down: total / crowd, Seed: uint64(i)}}}
			outcomes[i] = c.come()
		})
	}
	all.Wait()
	for _, o := range outcomes {
		if o.ending != served || o.up != total/crowd || o.down != total/crowd {
			t.Errorf("%d and %d bytes arrived of %d each way: %v", o.up, o.down, total/crowd, o)
		}
	}
	f := l.counts()
	t.Logf("%d MiB each way in %v: %v", total>>20, began.since().Round(time.Millisecond), f)
	if f.lost == 0 || f.reordered == 0 || f.duplicated == 0 {
		t.Error("the link was not bad at all")
	}
	if f.overflowed > 0 {
		t.Errorf("%d packets were lost that nobody planned to lose", f.overflowed)
	}
	p.endWell(t)
}

func mustLaunch(t *testing.T, s *space, command []string) *proxy {
	t.Helper()
	p, err := launch(s, t.Name(), command)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.end(syscall.SIGKILL, bound) })
	return p
}

// endWell ends tiproxy, which must leave nothing and have nothing to complain
// of but what is allowed.
func (p *proxy) endWell(t *testing.T, allowed ...string) {
	t.Helper()
	if !p.end(syscall.SIGTERM, bound) || p.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("after SIGTERM: %v", p.cmd.ProcessState)
	}
	if left := p.gone(bound); len(left) > 0 {
		t.Errorf("tiproxy left %v", left)
	}
	p.read.Wait()
	for _, e := range p.log.grave {
		if e.Msg != escapedMessage && !slices.Contains(allowed, e.Msg) {
			t.Errorf("unexpected in the log: %s", e.line)
		}
	}
	if t.Failed() {
		t.Log(p.log.tail(8000))
	}
}

// noticed is within what time a peer that vanished from a quiet connection is
// to be noticed, and noticedSlack what a busy machine adds.
const (
	noticed      = 3 * time.Minute
	noticedSlack = 30 * time.Second
)

// A peer that vanishes from a quiet connection is noticed within three minutes,
// and does not keep the child awake for longer. The short form asks the kernel
// what it will do about it; the long form pulls the cable.
func TestVanishedPeer_IsNoticed(t *testing.T) {
	t.Parallel()
	near, far, l := joined(t, 1, weather{delay: time.Millisecond})
	p := mustLaunch(t, near, childLine(manners{Listen: destAddr}))
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	c, err := far.dial(ctx, at(nearIP))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	v := &client{conn: c, patience: bound}
	v.visit = visit{habit: short, asks: []ask{{Up: 100, Down: 100}}}
	if err := v.talk(); err != nil {
		t.Fatal(err)
	}
	carried := p.carried(t)
	if len(carried) != 2 {
		t.Fatalf("tiproxy holds connections %v, want one with the client and one with the child", carried)
	}
	for _, k := range carried {
		if k.after == 0 || k.after > noticed || k.userTimeout != 0 {
			t.Errorf("%v: a peer that vanished must be noticed within %v, and one that lives never be cut", k, noticed)
		}
	}
	if longTime(t) > 0 {
		if err := l.takeDown(far); err != nil {
			t.Fatal(err)
		}
		began := now()
		if left := p.asleep(noticed + noticedSlack); len(left) > 0 {
			t.Errorf("%v after the cable was pulled there still are %v", began.since(), left)
		}
		t.Logf("the child was gone %v after the cable was pulled", began.since().Round(time.Second))
	}
	p.endWell(t)
}

// keepalive is what the kernel does about a connection on which nothing moves.
type keepalive struct {
	peer        string
	after       time.Duration // until the peer counts as gone; 0: never
	userTimeout int           // TCP_USER_TIMEOUT in tcp(7), in ms
}

// carried are the established TCP connections that tiproxy holds. Its sockets
// are borrowed with pidfd_getfd(2), so that the kernel itself is asked.
func (p *proxy) carried(t *testing.T) []keepalive {
	t.Helper()
	pidfd, err := unix.PidfdOpen(p.pid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	var found []keepalive
	for fd := range 100 {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", p.pid(), fd))
		if err != nil || !strings.HasPrefix(link, "socket:") {
			continue
		}
		own, err := unix.PidfdGetfd(pidfd, fd, 0)
		if err != nil {
			t.Fatal(err)
		}
		k, err := readKeepalive(own)
		unix.Close(own)
		if err == nil {
			found = append(found, k)
		}
	}
	return found
}

// errNotCarried marks a socket that is no established TCP connection.
var errNotCarried = errors.New("no connection")

func readKeepalive(fd int) (k keepalive, err error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	const established = 1 // TCP_ESTABLISHED in net/tcp_states.h
	if err != nil || info.State != established {
		return k, errNotCarried
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return k, err
	}
	k.peer = fmt.Sprint(peer)
	get := func(level, option int) (v int) {
		if err == nil {
			v, err = unix.GetsockoptInt(fd, level, option)
		}
		return v
	}
	on := get(unix.SOL_SOCKET, unix.SO_KEEPALIVE)
	idle, interval := get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE), get(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
	count := get(unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	k.userTimeout = get(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	if on != 0 {
		k.after = time.Duration(idle+count*interval) * time.Second
	}
	return k, err
}
