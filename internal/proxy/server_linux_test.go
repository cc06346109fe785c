package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tiproxy/internal/pool"
)

// refusing is an address that refuses connections until listen is called.
type refusing struct {
	t    *testing.T
	file *os.File
	addr net.Addr
}

func newRefusing(t *testing.T) *refusing {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := &refusing{t: t, file: os.NewFile(uintptr(fd), "refusing")}
	t.Cleanup(func() { r.file.Close() })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	r.addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: sa.(*unix.SockaddrInet4).Port}
	return r
}

func (r *refusing) listen() net.Listener {
	r.t.Helper()
	if err := unix.Listen(int(r.file.Fd()), 128); err != nil {
		r.t.Fatal(err)
	}
	l, err := net.FileListener(r.file)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
	return l
}

// life returns a life that is ready at once, and refuses connections.
func (r *refusing) life() *life {
	l := newLife(stub{r.addr}, nil)
	l.ln = nil
	return l
}

// stub is a listener that has nothing but an address.
type stub struct{ addr net.Addr }

func (s stub) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (s stub) Close() error              { return nil }
func (s stub) Addr() net.Addr            { return s.addr }

func TestServesFromOneLife(t *testing.T) {
	everyNetwork(t, func(t *testing.T, bind, dest string) {
		c := newChild(t)
		c.will(newLife(listen(t, dest), echo))
		h := newHouse(t, bind, c, Config{})
		for range 3 {
			client := connect(t, h.addr)
			say(t, client, pattern(100))
			hear(t, client, pattern(100))
			client.CloseWrite()
			hearEnd(t, client)
		}
		eventually(t, "all connections have ended", func() bool { return h.Connections() == 0 })
		eventually(t, "all leases are back", func() bool { return h.pool.Snapshot().Connections == 0 })
		if s := h.Stats(); s.Closed != 3 || s.BytesUp != 300 || s.BytesDown != 300 {
			t.Errorf("stats %+v", s)
		}
		if n := h.logs.count("msg=connection "); n != 3 {
			t.Errorf("%d connection lines, want 3:\n%s", n, h.logs)
		}
	})
}

// A client that says something, half-closes and waits is served with its bytes.
func TestHeldClientWithEnd(t *testing.T) {
	everyNetwork(t, func(t *testing.T, bind, dest string) {
		c := newChild(t)
		ready := c.will(newLife(listen(t, dest), echo)).booting()
		h := newHouse(t, bind, c, Config{})
		client := connect(t, h.addr)
		say(t, client, []byte("HELLO"))
		client.CloseWrite()
		eventually(t, "the client waits", func() bool { return h.pool.Snapshot().Waiting == 1 })
		ready()
		hear(t, client, []byte("HELLO"))
		hearEnd(t, client)
	})
}

// A client on a unix socket that has said something and closed it is served;
// one that has said nothing has left.
func TestHeldClientThatClosed(t *testing.T) {
	leakFree(t)
	heard := make(chan string, 2)
	c := newChild(t)
	ready := c.will(newLife(listen(t, "tcp"), func(nc net.Conn) {
		b, _ := io.ReadAll(nc)
		heard <- string(b)
		nc.Close()
	})).booting()
	h := newHouse(t, "unix", c, Config{})
	one, other := connect(t, h.addr), connect(t, h.addr)
	say(t, one, []byte("HELLO"))
	eventually(t, "both wait", func() bool { return h.pool.Snapshot().Waiting == 2 })
	one.Close()
	other.Close()
	eventually(t, "one of them is forgotten", func() bool { return h.Stats().ClientLeft == 1 })
	ready()
	if got := await(t, "the child hears", heard); got != "HELLO" {
		t.Errorf("the child heard %q", got)
	}
	eventually(t, "the other one is served", func() bool { return h.Connections() == 0 })
}

// A client that resets its connection is forgotten, also after a half-close.
func TestHeldClientLeaves(t *testing.T) {
	for _, ended := range []bool{false, true} {
		leakFree(t)
		c := newChild(t)
		ready := c.will(newLife(listen(t, "tcp"), echo)).booting()
		h := newHouse(t, "tcp", c, Config{})
		client, faithful := connect(t, h.addr), connect(t, h.addr)
		say(t, client, []byte("abc"))
		if ended {
			client.CloseWrite()
		}
		eventually(t, "both clients wait", func() bool { return h.pool.Snapshot().Waiting == 2 })
		reset(client)
		eventually(t, "the client is forgotten", func() bool {
			return h.Stats().ClientLeft == 1 && h.pool.Snapshot().Waiting == 1
		})
		ready()
		say(t, faithful, []byte("x"))
		hear(t, faithful, []byte("x"))
	}
}

func TestFailedStartIsToldToAll(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	l := c.will(newLife(listen(t, "tcp"), echo))
	l.booting()
	h := newHouse(t, "tcp", c, Config{})
	var clients []peer
	for range 5 {
		clients = append(clients, connect(t, h.addr))
	}
	eventually(t, "all wait", func() bool { return h.pool.Snapshot().Waiting == 5 })
	l.exit(pool.Exit{Err: errors.New("exit status 3"), Status: "exit status 3"})
	for _, client := range clients {
		hearReset(t, client)
	}
	eventually(t, "all are counted", func() bool { return h.Stats().StartFailed == 5 })
	if strings.Contains(h.logs.String(), "level=WARN") || strings.Contains(h.logs.String(), "level=ERROR") {
		t.Errorf("the failed start is the pool's to tell:\n%s", h.logs)
	}
}

// The child lives and refuses; when it listens again the client is served.
func TestRefusedThenServed(t *testing.T) {
	leakFree(t)
	place := newRefusing(t)
	c := newChild(t)
	l := c.will(place.life())
	ready := l.busy()
	h := newHouse(t, "tcp", c, Config{Hold: time.Hour})
	client := connect(t, h.addr)
	say(t, client, []byte("HELLO"))
	await(t, "the client is refused and waits", l.asked)
	if n := h.pool.Snapshot().Connections; n != 1 {
		t.Errorf("%d leases while a client is held by a living child, want 1", n)
	}
	ln := place.listen()
	ready()
	served, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	hear(t, served, []byte("HELLO"))
	say(t, served, []byte("WORLD"))
	hear(t, client, []byte("WORLD"))
}

// The child says it is ready and refuses all the same: the client is tried at
// a bounded rate, is reset when its time is over, and one line says so.
func TestRefusedForTooLong(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	l := c.will(newRefusing(t).life())
	h := newHouse(t, "tcp", c, Config{Hold: 300 * time.Millisecond})
	client := connect(t, h.addr)
	began := time.Now()
	hearReset(t, client)
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("reset after %v, want 300 ms at least", took)
	}
	eventually(t, "it is counted", func() bool { return h.Stats().Refused == 1 })
	if n := h.logs.count("level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, h.logs)
	}
	// 1+2+4 ... +128 ms are 255 ms: nine tries, and no more however slow we are.
	if n := len(l.asked); n < 2 || n > 10 {
		t.Errorf("the child was asked %d times", n)
	}
}

// A held client that is refused can leave as well.
func TestRefusedClientLeaves(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	l := c.will(newRefusing(t).life())
	l.busy()
	h := newHouse(t, "tcp", c, Config{})
	client := connect(t, h.addr)
	await(t, "the client is refused and waits", l.asked)
	reset(client)
	eventually(t, "it is forgotten", func() bool { return h.Stats().ClientLeft == 1 })
	if n := h.pool.Snapshot().Connections; n != 0 {
		t.Errorf("%d leases are left", n)
	}
}

// A child that accepts and resets is not served to anybody: the client waits
// until it takes a connection for good.
func TestResetBeforeAnyByteIsRetried(t *testing.T) {
	leakFree(t)
	var tries atomic.Int32
	c := newChild(t)
	c.will(newLife(listen(t, "tcp"), func(nc net.Conn) {
		if tries.Add(1) <= 5 {
			reset(nc)
			return
		}
		nc.Write([]byte("READY"))
		echo(nc)
	}))
	h := newHouse(t, "tcp", c, Config{Hold: time.Hour})
	client := connect(t, h.addr)
	hear(t, client, []byte("READY"))
	say(t, client, []byte("HELLO"))
	client.CloseWrite()
	hear(t, client, []byte("HELLO"))
	hearEnd(t, client)
	if n := tries.Load(); n != 6 {
		t.Errorf("%d tries, want 6", n)
	}
}

// A lease whose child has ended leads to the next child, as does a child that
// ends while it refuses.
func TestNextLifeServes(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	first := c.will(newRefusing(t).life())
	first.busy()
	c.will(newLife(listen(t, "tcp"), echo))
	h := newHouse(t, "tcp", c, Config{Hold: time.Hour})
	client := connect(t, h.addr)
	say(t, client, []byte("HELLO"))
	client.CloseWrite()
	await(t, "the client is refused and waits", first.asked)
	first.exit(pool.Exit{Status: "exit status 0"})
	hear(t, client, []byte("HELLO"))
	hearEnd(t, client)
	if n := h.pool.Snapshot().Gen; n != 2 {
		t.Errorf("served by life %d, want 2", n)
	}
}

func TestDrain(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	l := c.will(newLife(listen(t, "tcp"), echo))
	ready := l.booting()
	h := newHouse(t, "tcp", c, Config{})
	open := connect(t, h.addr)
	eventually(t, "the client waits", func() bool { return h.pool.Snapshot().Waiting == 1 })
	ready()
	say(t, open, []byte("x"))
	hear(t, open, []byte("x"))

	// Somebody who is held by a child that refuses, and one who waits in Get,
	// are one and the same here: the life has ended and the next is booting.
	h.Drain()
	h.Drain() // once is enough, twice is no harm
	if err := <-h.served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	h.served <- nil
	if late, err := net.Dial(h.addr.Network(), h.addr.String()); err == nil {
		late.Close()
		t.Error("a client was taken after Drain")
	}
	soon, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := h.Wait(soon); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 connection") {
		t.Errorf("Wait: %v", err)
	}
	say(t, open, []byte("y"))
	hear(t, open, []byte("y"))
	open.CloseWrite()
	hearEnd(t, open)
	if err := h.Wait(context.Background()); err != nil {
		t.Errorf("Wait: %v", err)
	}
}

func TestDrainResetsThoseWhoWait(t *testing.T) {
	for _, where := range []string{"starting", "refused"} {
		t.Run(where, func(t *testing.T) {
			leakFree(t)
			c := newChild(t)
			l := c.will(newRefusing(t).life())
			if where == "starting" {
				l.booting()
			}
			l.busy()
			h := newHouse(t, "tcp", c, Config{})
			client := connect(t, h.addr)
			if where == "starting" {
				eventually(t, "the client waits", func() bool { return h.pool.Snapshot().Waiting == 1 })
			} else {
				await(t, "the client is refused and waits", l.asked)
			}
			h.Drain()
			hearReset(t, client)
			if err := h.Wait(context.Background()); err != nil {
				t.Errorf("Wait: %v", err)
			}
			if s := h.Stats(); s.Drained != 1 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

// While the server drains, a connection is over when its client has everything
// that came from a child that is gone, though the client says nothing.
func TestWaitEndsWhatIsServed(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	served := make(chan net.Conn, 1)
	l := c.will(newLife(listen(t, "tcp"), func(nc net.Conn) { served <- nc }))
	h := newHouse(t, "tcp", c, Config{})
	client := connect(t, h.addr)
	say(t, client, []byte("x"))
	server := await(t, "the child accepts", served).(peer)
	hear(t, server, []byte("x"))
	h.Drain()
	wrote := stuff(t, server)
	server.Close()
	l.exit(pool.Exit{Status: "exit status 0"})
	waited := make(chan error, 1)
	go func() { waited <- h.Wait(context.Background()) }()
	n, _, err := sum(client)
	if n != int64(wrote) || err != nil {
		t.Errorf("read %d of %d bytes and %v", n, wrote, err)
	}
	if err := await(t, "Wait returns", waited); err != nil {
		t.Error(err)
	}
}

func TestResetEndsEverything(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	c.will(newLife(listen(t, "tcp"), func(nc net.Conn) {
		nc.Write(pattern(1 << 20)) // fails when it is reset
		io.Copy(io.Discard, nc)
		nc.Close()
	}))
	h := newHouse(t, "tcp", c, Config{})
	client := connect(t, h.addr)
	hear(t, client, pattern(1000))
	h.Reset()
	if _, _, err := sum(client); !isReset(err) {
		t.Errorf("read %v, want a reset", err)
	}
	if err := h.Wait(context.Background()); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if s := h.Stats(); s.Killed != 1 {
		t.Errorf("stats %+v", s)
	}
}

// Beyond the limit clients stay in the kernel's backlog and are served in turn.
func TestMaxConnections(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	c.will(newLife(listen(t, "tcp"), echo))
	h := newHouse(t, "tcp", c, Config{MaxConnections: 2})
	var in []peer
	for range 2 {
		client := connect(t, h.addr)
		say(t, client, []byte("x"))
		hear(t, client, []byte("x"))
		in = append(in, client)
	}
	late := connect(t, h.addr)
	say(t, late, []byte("late"))
	for range 3 { // the others go on meanwhile
		say(t, in[0], []byte("y"))
		hear(t, in[0], []byte("y"))
	}
	if n, a := h.Connections(), h.Stats().Accepted; n != 2 || a != 2 {
		t.Fatalf("%d connections, %d accepted, want 2", n, a)
	}
	in[0].Close()
	hear(t, late, []byte("late"))
}

func TestServeTellsWhatIsWrong(t *testing.T) {
	leakFree(t)
	s := New(pool.New(newChild(t), pool.Config{}), Config{})
	l := listen(t, "tcp")
	l.Close()
	err := s.Serve(l)
	if !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("Serve: %v", err)
	}
	s.Drain()
	again := listen(t, "tcp")
	if err := s.Serve(again); err != nil {
		t.Errorf("Serve after Drain: %v", err)
	}
	if _, err := again.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is left open: %v", err)
	}
}
