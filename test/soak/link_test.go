//go:build linux

package soak

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The addresses of the two ends of a link.
const (
	nearIP   = "10.77.0.1"
	farIP    = "10.77.0.2"
	linkName = "link0"
)

// weather is how bad a link is. The fates of the packets of each direction are
// drawn from a seeded source, four draws for each packet: the n-th packet meets
// the same fate in every run, whatever packet it then is.
type weather struct {
	loss      float64       // share that is lost
	reorder   float64       // share that later ones overtake
	duplicate float64       // share that arrives twice
	delay     time.Duration // one way
}

// queueMax is how many packets are on their way at most, in one direction. It
// is more than any sender's window, so that only the plan loses packets.
const queueMax = 20000

// link joins two networks by carrying packets between two TUN devices. It takes
// the place of netem, which many kernels are built without.
type link struct {
	near, far     *space
	weather       atomic.Pointer[weather]
	cut           atomic.Bool // lose everything
	toFar, toNear *way
	devices       [2]*os.File
}

// newLink joins near and far until the test ends.
func newLink(t *testing.T, near, far *space, seed uint64, w weather) *link {
	t.Helper()
	l := &link{near: near, far: far}
	l.weather.Store(&w)
	for i, end := range []struct {
		s     *space
		own   string
		other string
	}{{near, nearIP, farIP}, {far, farIP, nearIP}} {
		f, err := openTUN(end.s)
		if err != nil {
			t.Fatalf("make a TUN device: %v", err)
		}
		l.devices[i] = f
		_ = end.s.sysctl("ipv6/conf/"+linkName+"/disable_ipv6", "1") // its own packets would take fates away
		end.s.must(t, "ip", "addr", "add", end.own, "peer", end.other, "dev", linkName)
		end.s.must(t, "ip", "link", "set", linkName, "up")
	}
	l.toFar = newWay(l, l.devices[0], l.devices[1], seed)
	l.toNear = newWay(l, l.devices[1], l.devices[0], seed+1)
	var running sync.WaitGroup
	for _, w := range []*way{l.toFar, l.toNear} {
		running.Go(w.collect)
		running.Go(w.deliver)
	}
	t.Cleanup(func() {
		close(l.toFar.closed)
		close(l.toNear.closed)
		l.devices[0].Close()
		l.devices[1].Close()
		running.Wait()
	})
	return l
}

// openTUN makes the device and returns the side that is not the kernel's.
func openTUN(s *space) (*os.File, error) {
	var fd int
	var err error
	s.do(func() {
		fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return
		}
		var req *unix.Ifreq
		if req, err = unix.NewIfreq(linkName); err == nil {
			req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "tun"), nil
}

// set changes the weather for the packets that come from now on.
func (l *link) set(w weather) { l.weather.Store(&w) }

// counts is what became of the packets of both directions.
func (l *link) counts() fates {
	f := l.toFar.counts()
	g := l.toNear.counts()
	return fates{f.carried + g.carried, f.lost + g.lost, f.reordered + g.reordered, f.duplicated + g.duplicated, f.overflowed + g.overflowed}
}

// takeDown brings the device of one network down. Its peer learns nothing.
func (l *link) takeDown(s *space) error {
	_, err := s.run("ip", "link", "set", linkName, "down")
	return err
}

func (l *link) bringUp(s *space) error {
	_, err := s.run("ip", "link", "set", linkName, "up")
	return err
}

// narrow limits both directions with the kernel's token bucket, tc-tbf(8).
func (l *link) narrow(rate string) error {
	for _, s := range []*space{l.near, l.far} {
		if _, err := s.run("tc", "qdisc", "replace", "dev", linkName, "root", "tbf", "rate", rate, "burst", "32kb", "latency", "300ms"); err != nil {
			return err
		}
	}
	return nil
}

// widen takes the limit away again.
func (l *link) widen() error {
	for _, s := range []*space{l.near, l.far} {
		// Without a limit there is nothing to delete, which tc takes for an error.
		if shown, err := s.run("tc", "qdisc", "show", "dev", linkName); err != nil || !strings.Contains(shown, "tbf") {
			continue
		}
		if _, err := s.run("tc", "qdisc", "del", "dev", linkName, "root"); err != nil {
			return err
		}
	}
	return nil
}

// fates counts packets.
type fates struct{ carried, lost, reordered, duplicated, overflowed int64 }

func (f fates) String() string {
	return fmt.Sprintf("%d packets carried, %d lost, %d reordered, %d duplicated, %d beyond the queue", f.carried, f.lost, f.reordered, f.duplicated, f.overflowed)
}

// way is one direction of a link.
type way struct {
	link   *link
	from   *os.File
	to     *os.File
	closed chan struct{}
	more   chan struct{} // holds a value when the first packet due has changed

	mu     sync.Mutex
	plan   *rand.Rand
	queue  packets
	number uint64
	fates  fates
}

func newWay(l *link, from, to *os.File, seed uint64) *way {
	return &way{
		link: l, from: from, to: to, plan: rand.New(rand.NewPCG(seed, 77)),
		closed: make(chan struct{}), more: make(chan struct{}, 1),
	}
}

func (w *way) counts() fates {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fates
}

// collect takes packets from the device until the link is closed.
func (w *way) collect() {
	buf := make([]byte, 65536)
	for {
		n, err := w.from.Read(buf)
		if err == nil {
			w.take(buf[:n])
			continue
		}
		select {
		case <-w.closed:
			return
		case <-time.After(time.Millisecond): // the device is down
		}
	}
}

// take decides what becomes of a packet.
func (w *way) take(data []byte) {
	now, weather := time.Now(), w.link.weather.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	lost := w.plan.Float64() < weather.loss
	late := w.plan.Float64() < weather.reorder
	twice := w.plan.Float64() < weather.duplicate
	extra := w.plan.Float64()
	if lost || w.link.cut.Load() {
		w.fates.lost++
		return
	}
	due := now.Add(weather.delay)
	if late {
		w.fates.reordered++
		due = due.Add(time.Millisecond + time.Duration(extra*float64(weather.delay/2)))
	}
	w.enqueueLocked(due, data)
	if twice {
		w.fates.duplicated++
		w.enqueueLocked(due.Add(time.Millisecond), data)
	}
}

func (w *way) enqueueLocked(due time.Time, data []byte) {
	if len(w.queue) >= queueMax {
		w.fates.overflowed++
		return
	}
	w.fates.carried++
	w.number++
	heap.Push(&w.queue, packet{due: due, number: w.number, data: append([]byte(nil), data...)})
	if w.queue[0].number == w.number {
		select {
		case w.more <- struct{}{}:
		default:
		}
	}
}

// deliver gives packets to the other device when they are due, until the link
// is closed. What meets a device that is down is lost.
func (w *way) deliver() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		due, next := w.due()
		for _, p := range due {
			_, _ = w.to.Write(p.data)
		}
		timer.Reset(next)
		select {
		case <-w.closed:
			return
		case <-w.more:
		case <-timer.C:
		}
	}
}

// due returns the packets that are to be delivered now, and how long it is to
// the next one.
func (w *way) due() (due []packet, next time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for at := time.Now(); len(w.queue) > 0; {
		if wait := w.queue[0].due.Sub(at); wait > 0 {
			return due, wait
		}
		due = append(due, heap.Pop(&w.queue).(packet))
	}
	return due, time.Hour
}

type packet struct {
	due    time.Time
	number uint64 // keeps those of one moment in order
	data   []byte
}

// packets is a heap, the first packet due on top.
type packets []packet

func (p packets) Len() int { return len(p) }
func (p packets) Less(i, j int) bool {
	if p[i].due.Equal(p[j].due) {
		return p[i].number < p[j].number
	}
	return p[i].due.Before(p[j].due)
}
func (p packets) Swap(i, j int) { p[i], p[j] = p[j], p[i] }
func (p *packets) Push(x any)   { *p = append(*p, x.(packet)) }
func (p *packets) Pop() any {
	old := *p
	last := old[len(old)-1]
	*p = old[:len(old)-1]
	return last
}

// joined makes two networks and a link between them.
func joined(t *testing.T, seed uint64, w weather) (near, far *space, l *link) {
	t.Helper()
	near, far = newSpace(t), newSpace(t)
	return near, far, newLink(t, near, far, seed, w)
}
