package direct

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestClientsAreLedByAddress(t *testing.T) {
	for _, tt := range []struct {
		name, bindKind, bind string
		child                []string
		direct               []string // hosts whose clients meet the child
		carried              []string // and tiproxy
	}{
		{"one address", "tcp4", "127.0.0.1:0", []string{"tcp4,127.0.0.1:0"}, []string{"127.0.0.1"}, nil},
		{"another address, with a high last byte", "tcp4", "127.0.0.200:0", []string{"tcp4,127.0.0.1:0"}, []string{"127.0.0.200"}, nil},
		{"IPv4 wildcard", "tcp4", "0.0.0.0:0", []string{"tcp4,127.0.0.1:0"}, []string{"127.0.0.1", "127.9.9.9"}, nil},
		{"IPv6", "tcp6", "[::1]:0", []string{"tcp6,[::1]:0"}, []string{"::1"}, nil},
		{"IPv6 wildcard", "tcp6", "[::]:0", []string{"tcp6,[::1]:0"}, []string{"::1"}, nil},
		{"dual-stack, child on both", "tcp", ":0", []string{"tcp4,127.0.0.1:0", "tcp6,[::1]:0"}, []string{"127.0.0.1", "::1"}, nil},
		{"dual-stack, child dual-stack", "tcp", ":0", []string{"tcp,:0"}, []string{"127.0.0.1", "::1"}, nil},
		{"dual-stack, child on IPv4", "tcp", ":0", []string{"tcp4,127.0.0.1:0"}, []string{"127.0.0.1"}, []string{"::1"}},
		{"dual-stack, child on IPv6 alone", "tcp", ":0", []string{"tcp6,[::]:0"}, []string{"::1"}, []string{"127.0.0.1"}},
		{"IPv4, child dual-stack", "tcp4", "127.0.0.1:0", []string{"tcp,:0"}, []string{"127.0.0.1"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFront(t, tt.bindKind, tt.bind)
			for _, host := range append(tt.direct, tt.carried...) {
				if who := f.meets(host); who != "front" {
					t.Errorf("before Begin %s meets %s", host, who)
				}
			}
			f.begin(1, startChild(t, tt.child...))
			for _, host := range tt.direct {
				if who := f.meets(host); who != "child" {
					t.Errorf("%s meets %s", host, who)
				}
			}
			for _, host := range tt.carried {
				if who := f.meets(host); who != "front" {
					t.Errorf("%s meets %s", host, who)
				}
			}
			if got := f.path.Stats().Begun; got != uint64(len(tt.direct)) {
				t.Errorf("%d begun, want %d", got, len(tt.direct))
			}
		})
	}
}

// The same port on an address of somebody else is not ours.
func TestOthersAreNotLed(t *testing.T) {
	f := newFront(t, "tcp4", "127.0.0.1:0")
	f.begin(1, startChild(t, "tcp4,127.0.0.1:0"))
	other, err := listenAs("tcp4", net.JoinHostPort("127.0.0.2", portText(f)))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go answer(other, "other")
	if who := f.meets("127.0.0.2"); who != "other" {
		t.Errorf("a client of somebody else meets %s", who)
	}
}

func portText(f *front) string { _, p, _ := net.SplitHostPort(f.l.Addr().String()); return p }

func TestNobodyIsLedToWhatIsGone(t *testing.T) {
	for name, goes := range map[string]func(f *front, c *child){
		"the child closes its listener": func(_ *front, c *child) { c.close(0) },
		"the child is killed":           func(_ *front, c *child) { c.kill() },
		"the life has ended":            func(f *front, _ *child) { f.path.End(1) },
		"it is being decided to stop":   func(f *front, _ *child) { f.path.Retire(1) },
		"tiproxy stops":                 func(f *front, _ *child) { f.path.Drain() },
		"the path is closed":            func(f *front, _ *child) { f.path.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFront(t, "tcp4", "127.0.0.1:0")
			c := startChild(t, "tcp4,127.0.0.1:0")
			f.begin(1, c)
			if who := f.meets("127.0.0.1"); who != "child" {
				t.Fatalf("a client meets %s", who)
			}
			goes(f, c)
			if who := f.meets("127.0.0.1"); who != "front" {
				t.Errorf("then a client meets %s", who)
			}
		})
	}
}

func TestNextLifeIsLedTo(t *testing.T) {
	f := newFront(t, "tcp4", "127.0.0.1:0")
	for gen := range uint64(5) {
		c := startChild(t, "tcp4,127.0.0.1:0")
		f.begin(gen+1, c)
		if who := f.meets("127.0.0.1"); who != "child" {
			t.Errorf("life %d: a client meets %s", gen+1, who)
		}
		f.eventually("the last client is gone", func() bool { return f.path.Retire(gen + 1) })
		f.path.End(gen + 1)
		c.kill()
	}
}

// Workers that share an address, one in each slot: while one is left, it serves.
func TestSurvivorServes(t *testing.T) {
	f := newFront(t, "tcp4", "127.0.0.1:0")
	first := startChild(t, "share,127.0.0.1:0")
	second := startChild(t, "share,"+first.sockets[0].Addr.String())
	all := func(context.Context) ([]Socket, error) { return append(first.sockets, second.sockets...), nil }
	f.path.Begin(1, all)
	f.eventually("both slots are filled", func() bool { return f.path.kernel.filled() == 2 && f.path.kernel.isOpen() })
	first.kill()
	for range 20 {
		if who := f.meets("127.0.0.1"); who != "child" {
			t.Fatalf("a client meets %s", who)
		}
	}
	second.kill()
	if who := f.meets("127.0.0.1"); who != "front" {
		t.Errorf("a client meets %s", who)
	}
}

// The kernel itself spreads clients over a group, whichever socket is in the slot.
func TestGroupIsSharedByTheKernel(t *testing.T) {
	f := newFront(t, "tcp4", "127.0.0.1:0")
	first := startChild(t, "share,127.0.0.1:0")
	startChild(t, "share,"+first.sockets[0].Addr.String())
	f.begin(1, first)
	var kept []net.Conn
	for range 64 {
		c := f.dial("127.0.0.1")
		f.met(c)
		kept = append(kept, c)
	}
	first.kill()
	alive := 0
	for _, c := range kept {
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		if nerr, ok := err.(net.Error); ok && nerr.Timeout() { //nolint:errorlint // as it comes from net
			alive++
			break
		}
	}
	if alive == 0 {
		t.Error("every one of 64 clients was with the one socket that was led to")
	}
}

func TestReloadIsFoundAgain(t *testing.T) {
	f := newFront(t, "tcp4", "127.0.0.1:0")
	old, fresh := startChild(t, "tcp4,127.0.0.1:0"), startChild(t, "tcp4,127.0.0.1:0")
	var mu sync.Mutex
	now := old
	f.path.Begin(1, func(ctx context.Context) ([]Socket, error) {
		mu.Lock()
		defer mu.Unlock()
		return now.find(ctx)
	})
	f.eventually("the child is met", func() bool { return f.meets("127.0.0.1") == "child" })
	mu.Lock()
	now = fresh
	mu.Unlock()
	old.kill()
	if who := f.meets("127.0.0.1"); who != "front" {
		t.Fatalf("a client meets %s", who)
	}
	f.eventually("the new listener is met", func() bool { f.path.Again(); return f.meets("127.0.0.1") == "child" })
}

func TestUnfitSocketsAreRefused(t *testing.T) {
	t.Run("multipath", func(t *testing.T) { unfit(t, "mptcp", "MPTCP") })
	t.Run("device", func(t *testing.T) { unfit(t, "device", "bound to interface 1") })
}

// unfit tells of a child whose clients are carried, and says so once.
func unfit(t *testing.T, kind, why string) {
	c := startChild(t, kind+",127.0.0.1:0")
	f := newFront(t, "tcp4", "127.0.0.1:0")
	f.path.Begin(1, c.find)
	f.eventually("it is told", func() bool { return strings.Contains(f.log.String(), why) })
	if who := f.meets("127.0.0.1"); who != "front" {
		t.Errorf("a client meets %s", who)
	}
	for range 3 {
		f.path.Again()
	}
	f.path.Retire(1) // comes after all that
	if n := strings.Count(f.log.String(), why); n != 1 {
		t.Errorf("told %d times: %s", n, f.log)
	}
}

// What is left of a child's connections in the kernel does not keep the next
// tiproxy from the port.
func TestPortIsFreeAfterwards(t *testing.T) {
	f := newFront(t, "tcp4", "127.0.0.1:0")
	c := startChild(t, "mine,127.0.0.1:0")
	f.begin(1, c)
	kept := f.dial("127.0.0.1")
	if who := f.met(kept); who != "child" {
		t.Fatalf("a client meets %s", who)
	}
	c.kill() // its side goes on in FIN_WAIT2, as the client says nothing
	f.path.Close()
	f.l.Close()
	again, err := listenAs("tcp4", f.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// Nothing that we hold keeps a socket alive, and nothing of it is lost for the
// child: it has keepalive now, unless it chose its own.
func TestKeepaliveIsInherited(t *testing.T) {
	f := newFront(t, "tcp4", "127.0.0.1:0")
	l, err := listenAs("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := Socket{PID: unix.Getpid(), FD: fdOf(l), Inode: inodeOf(l)}
	get := func(fd int) int { n, _ := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE); return n }
	before := onSocket(l, get)
	if _, err := f.path.kernel.lead(0, s); err != nil {
		t.Fatal(err)
	}
	// Go's own listeners have it set for their connections, so ours is not.
	on := onSocket(l, func(fd int) int { n, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE); return n })
	if after := onSocket(l, get); on == 1 && after != 15 && after != before {
		t.Errorf("keepalive after %d s, was %d", after, before)
	}
	if on != 1 {
		t.Error("no keepalive")
	}
	s.Inode++
	if _, err := f.path.kernel.lead(0, s); err == nil {
		t.Error("led to a descriptor that is another socket")
	}
}
