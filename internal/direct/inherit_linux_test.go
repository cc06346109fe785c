package direct

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// estate is an inherited listener. Its children are in this process.
type estate struct {
	*front
	heir *Inherited
}

func newEstate(t *testing.T, kind, addr string) *estate {
	t.Helper()
	l, err := listenAs(kind, addr)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{t: t, l: l, log: &lines{}, released: make(chan struct{}, 1000)}
	heir, err := Inherit(Config{Listener: l.(*net.TCPListener), Idle: 200 * time.Millisecond, Hold: f.hold, Carried: f.carries})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	f.path = heir.Path
	t.Cleanup(heir.Close)
	return &estate{f, heir}
}

// child takes clients from the listener as a program does that was handed it.
func (e *estate) child() net.Listener {
	e.t.Helper()
	fd, err := unix.FcntlInt(uintptr(e.heir.Descriptor()), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		e.t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	l, err := net.FileListener(file) // which does not block from then on
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { l.Close() })
	return l
}

func (e *estate) option(name int) int {
	e.t.Helper()
	v, err := unix.GetsockoptInt(e.heir.Descriptor(), unix.SOL_SOCKET, name)
	if err != nil {
		e.t.Fatal(err)
	}
	return v
}

func (e *estate) blocks() bool {
	flags, err := unix.FcntlInt(uintptr(e.heir.Descriptor()), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_NONBLOCK == 0
}

// serve runs Serve and passes on what it wakes. The test ends it.
func (e *estate) serve(wake Wake) (failed <-chan error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	over := make(chan struct{})
	go func() { //nolint:gocritic // in a test
		ended <- e.heir.Serve(ctx, wake)
		close(over)
	}()
	e.t.Cleanup(func() { cancel(); <-over })
	return ended
}

// tell says that a child is woken.
func tell(ctx context.Context, woken chan<- struct{}) {
	select {
	case woken <- struct{}{}:
	case <-ctx.Done():
	}
}

func get[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("not within %v: %s", patience, what)
	}
	return v
}

// fate is what a client hears whom nobody greets.
func (e *estate) fate(c net.Conn) error {
	e.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	_, err := c.Read(make([]byte, 1))
	return err
}

func TestClientsWakeAChildAndAreItsOwn(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		t.Run(addr, func(t *testing.T) {
			e := newEstate(t, "tcp", addr)
			host, _, _ := net.SplitHostPort(e.l.Addr().String())
			woken, over := make(chan struct{}), make(chan chan struct{})
			e.serve(func(ctx context.Context) (<-chan struct{}, error) {
				tell(ctx, woken)
				select {
				case c := <-over:
					return c, nil
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				}
			})
			for range 3 {
				c := e.dial(host)
				get(t, "the child is woken", woken)
				l, end := e.child(), make(chan struct{})
				go answer(l, "child")
				over <- end
				if who := e.met(c); who != "child" {
					t.Errorf("the client meets %s", who)
				}
				if who := e.meets(host); who != "child" { // wakes nobody: nobody would take that
					t.Errorf("another client meets %s", who)
				}
				c.Close()
				l.Close()
				close(end)
			}
		})
	}
}

func TestClientsOfAFailedStartAreReset(t *testing.T) {
	e := newEstate(t, "tcp4", "127.0.0.1:0")
	woken, answers := make(chan struct{}), make(chan error)
	e.serve(func(ctx context.Context) (<-chan struct{}, error) {
		tell(ctx, woken)
		select {
		case err := <-answers:
			return nil, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	})
	for range 2 {
		clients := []net.Conn{e.dial("127.0.0.1"), e.dial("127.0.0.1"), e.dial("127.0.0.1")}
		get(t, "the child is woken", woken)
		answers <- errors.New("it cannot live")
		for _, c := range clients {
			if err := e.fate(c); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a client hears %v, want a reset", err)
			}
		}
	}
}

// A child may do to the socket what it likes; the next one finds it as it was.
func TestNextChildFindsTheListenerAsItWas(t *testing.T) {
	for name, does := range map[string]func(fd int) error{
		"nothing":             func(int) error { return nil },
		"does not block":      func(fd int) error { return unix.SetNonblock(fd, true) },
		"a short backlog":     func(fd int) error { return unix.Listen(fd, 1) },
		"shut down":           func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) },
		"shut down for reads": func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RD) },
		"shut down twice": func(fd int) error {
			_ = unix.Shutdown(fd, unix.SHUT_RDWR) // then it is none that could be
			_ = unix.Shutdown(fd, unix.SHUT_RDWR)
			return nil
		},
	} {
		for _, addr := range []string{"127.0.0.1:0", ":0"} {
			t.Run(name+" "+addr, func(t *testing.T) {
				e := newEstate(t, "tcp", addr)
				want := e.l.Addr().(*net.TCPAddr).Port
				if err := does(e.heir.Descriptor()); err != nil {
					t.Fatal(err)
				}
				if err := e.heir.Renew(); err != nil {
					t.Fatal(err)
				}
				sa, err := unix.Getsockname(e.heir.Descriptor())
				if err != nil {
					t.Fatal(err)
				}
				port := 0
				switch a := sa.(type) {
				case *unix.SockaddrInet4:
					port = a.Port
				case *unix.SockaddrInet6:
					port = a.Port
				}
				if port != want || e.option(unix.SO_ACCEPTCONN) != 1 || !e.blocks() {
					t.Errorf("port %d, want %d; listens %d; blocks %v", port, want, e.option(unix.SO_ACCEPTCONN), e.blocks())
				}
				info, err := unix.GetsockoptTCPInfo(e.heir.Descriptor(), unix.IPPROTO_TCP, unix.TCP_INFO)
				if err != nil || info.Sacked < 100 {
					t.Errorf("a backlog of %d, %v", info.Sacked, err)
				}
				go answer(e.child(), "child")
				if who := e.meets("127.0.0.1"); who != "child" {
					t.Errorf("a client meets %s", who)
				}
			})
		}
	}
}

// A listener that was shut down is readable to poll(2). Nobody is woken by that.
func TestNobodyIsWokenByAListenerThatWasShutDown(t *testing.T) {
	e := newEstate(t, "tcp4", "127.0.0.1:0")
	woken, ended := make(chan struct{}), make(chan struct{})
	e.serve(func(ctx context.Context) (<-chan struct{}, error) {
		tell(ctx, woken)
		return ended, ctx.Err()
	})
	e.dial("127.0.0.1")
	get(t, "the child is woken", woken)
	if err := unix.Shutdown(e.heir.Descriptor(), unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	close(ended)
	e.eventually("it listens again", func() bool { return e.option(unix.SO_ACCEPTCONN) == 1 })
	select {
	case <-woken:
		t.Fatal("a child is woken for nobody")
	default:
	}
	e.dial("127.0.0.1")
	get(t, "the child is woken by a client", woken)
}

// When somebody else has taken the address meanwhile, Serve says so and ends.
func TestServeEndsWhenTheAddressIsLost(t *testing.T) {
	e := newEstate(t, "tcp4", "127.0.0.1:0")
	if err := unix.Shutdown(e.heir.Descriptor(), unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	other, err := listenAs("tcp4", e.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	failed := e.serve(func(context.Context) (<-chan struct{}, error) { t.Error("a child is woken"); return nil, nil })
	if err := get(t, "Serve ends", failed); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Serve ends with %v", err)
	}
}

// What a living child has set stays so while others are turned away: one that
// waits for clients by epoll would be stuck in a call that blocks.
func TestTurningAwayLeavesTheChildsSettings(t *testing.T) {
	for _, blocks := range []bool{true, false} {
		e := newEstate(t, "tcp4", "127.0.0.1:0")
		if err := unix.SetNonblock(e.heir.Descriptor(), !blocks); err != nil {
			t.Fatal(err)
		}
		c := e.dial("127.0.0.1")
		e.heir.TurnAway()
		if err := e.fate(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a client hears %v, want a reset", err)
		}
		e.heir.TurnAway() // nobody waits: returns at once
		if e.blocks() != blocks {
			t.Errorf("blocks: %v, want %v", e.blocks(), blocks)
		}
	}
}

// Once new clients are refused those in the queue can still be taken, and those
// who were taken go on.
func TestRefusedClientsAreNotLetIn(t *testing.T) {
	for _, way := range []struct{ kind, addr, host string }{
		{"tcp4", "127.0.0.1:0", "127.0.0.1"},
		{"tcp6", "[::1]:0", "::1"},
		{"tcp", ":0", "127.0.0.1"},
		{"tcp", ":0", "::1"},
	} {
		e := newEstate(t, way.kind, way.addr)
		host := way.host
		taken := e.dial(host)
		l := e.child()
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		queued := e.dial(host)
		if err := e.heir.Refuse(); err != nil {
			t.Fatal(err)
		}
		d := net.Dialer{Timeout: 300 * time.Millisecond}
		if c, err := d.Dial("tcp", net.JoinHostPort(host, portText(e.front))); err == nil {
			c.Close()
			t.Error("a new client is let in")
		} else if !os.IsTimeout(err) {
			t.Errorf("a new client hears %v, should try again", err)
		}
		if _, err := server.Write([]byte("x")); err != nil || e.fate(taken) != nil {
			t.Errorf("who was taken is cut: %v", err)
		}
		go answer(l, "child")
		if who := e.met(queued); who != "child" {
			t.Errorf("who was in the queue meets %s", who)
		}
	}
}

// Many who come and go faster than it is worth to be told make the idle time run
// anew, though nobody is there when it is looked.
func TestAFloodOfShortVisitsIsNoticed(t *testing.T) {
	e := newEstate(t, "tcp4", "127.0.0.1:0")
	l := e.child()
	go answer(l, "child")
	e.path.Begin(1, nil)
	hears := func() (on bool) {
		e.path.watch.ask(func() bool { on = e.path.watch.events != nil; return true })
		return on
	}
	if !hears() {
		cannot(t, "the ends of connections are not told")
	}
	e.path.watch.ask(func() bool { // as one flood leaves it, with the next look far away
		w := e.path.watch
		w.events.flood.Store(true)
		w.heard()
		return true
	})
	if e.path.Retire(1) {
		t.Error("nobody has been there, says Retire")
	}
}

// No right is needed to be told of the ends of connections.
func TestPlainUsersAreToldOfEnds(t *testing.T) {
	told := make(chan error, 1)
	go func() { //nolint:gocritic // in a test
		runtime.LockOSThread() // for good: the thread, which is another user's, ends with this
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); os.Geteuid() == 0 && errno != 0 {
			told <- errno
			return
		}
		e, err := subscribe([]uint16{1})
		if err == nil {
			e.close()
		}
		told <- err
	}()
	if err := get(t, "it is tried", told); err != nil {
		cannot(t, err.Error())
	}
}

// Where the kernel does not tell of them, the life is held and let go all the same.
func TestWhoIsNotToldLooks(t *testing.T) {
	e := newEstate(t, "tcp4", "127.0.0.1:0")
	go answer(e.child(), "child")
	e.path.Begin(1, nil)
	w := e.path.watch
	w.ask(func() bool {
		w.deafen()
		w.deaf = true
		w.looking.in(w.tick())
		return true
	})
	for range 2 {
		c := e.dial("127.0.0.1")
		if who := e.met(c); who != "child" {
			t.Errorf("the client meets %s", who)
		}
		e.eventually("the life is held", e.isHeld)
		c.Close()
		e.eventually("it is let go", func() bool { return !e.isHeld() })
	}
}
