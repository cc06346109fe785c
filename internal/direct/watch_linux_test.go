package direct

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestSomebodyConnectedHoldsTheLife(t *testing.T) {
	f := newFront(t, "tcp4", "127.0.0.1:0")
	f.begin(1, startChild(t, "tcp4,127.0.0.1:0"))
	if !f.path.Retire(1) {
		t.Fatal("somebody is there before anybody came")
	}
	f.path.Return(1)
	c := f.dial("127.0.0.1")
	if who := f.met(c); who != "child" {
		t.Fatalf("a client meets %s", who)
	}
	if f.path.Retire(1) {
		t.Fatal("nobody is there, says Retire")
	}
	if !f.isHeld() {
		t.Fatal("the life is not held")
	}
	if who := f.meets("127.0.0.1"); who != "front" {
		t.Errorf("between Retire and Return a client meets %s", who)
	}
	f.path.Return(1)
	if who := f.meets("127.0.0.1"); who != "child" {
		t.Errorf("after Return a client meets %s", who)
	}
	f.eventually("one connection is left", func() bool { return f.path.Stats().Now == 1 })
	c.Close()
	f.eventually("it is let go", func() bool { return !f.isHeld() })
	f.eventually("nobody is there", func() bool {
		alone := f.path.Retire(1)
		if !alone {
			f.path.Return(1)
		}
		return alone
	})
}

// Whoever came and went unseen makes the idle time run anew.
func TestSomebodyWhoCameAndWentIsNoticed(t *testing.T) {
	f := newFront(t, "tcp4", "127.0.0.1:0")
	f.begin(1, startChild(t, "tcp4,127.0.0.1:0"))
	f.meets("127.0.0.1")
	select {
	case <-f.released:
	case <-time.After(patience):
		t.Fatal("nobody was noticed")
	}
	if f.isHeld() {
		t.Error("the life is still held")
	}
}

func TestSomebodyWhoCameAndWentBeforeRetire(t *testing.T) {
	f := newFront(t, "tcp4", "127.0.0.1:0")
	f.path.SetIdle(0) // nobody listens to events
	f.begin(1, startChild(t, "tcp4,127.0.0.1:0"))
	f.meets("127.0.0.1")
	if f.path.Retire(1) {
		t.Error("nobody has been there, says Retire")
	}
	f.path.Return(1)
	f.eventually("nobody is there any more", func() bool { return f.path.Retire(1) })
}

// A life that Retire was asked about before it began is led to by nobody.
func TestRetireBeforeBegin(t *testing.T) {
	f := newFront(t, "tcp4", "127.0.0.1:0")
	c := startChild(t, "tcp4,127.0.0.1:0")
	if !f.path.Retire(1) {
		t.Fatal("somebody is there")
	}
	f.path.Begin(1, c.find)
	f.eventually("the slot is filled", func() bool { return f.path.kernel.filled() == 1 })
	if who := f.meets("127.0.0.1"); who != "front" {
		t.Errorf("a client meets %s", who)
	}
	f.path.Return(1)
	f.eventually("clients are led", func() bool { return f.meets("127.0.0.1") == "child" })
	f.path.Return(1)
	f.path.Return(7)
}

func TestDrainHoldsUntilTheLastOneLeaves(t *testing.T) {
	f := newFront(t, "tcp4", "127.0.0.1:0")
	f.path.SetIdle(0)
	f.begin(1, startChild(t, "tcp4,127.0.0.1:0"))
	c := f.dial("127.0.0.1")
	f.met(c)
	f.path.Drain()
	if !f.isHeld() {
		t.Fatal("the life is not held")
	}
	c.Close()
	f.eventually("it is let go", func() bool { return !f.isHeld() })
}

func TestManyShortOnesAreNotListenedTo(t *testing.T) {
	f := newFront(t, "tcp4", "127.0.0.1:0")
	f.begin(1, startChild(t, "tcp4,127.0.0.1:0"))
	heard := func() (on bool) {
		f.path.watch.ask(func() bool { on = f.path.watch.events != nil; return true })
		return on
	}
	f.eventually("events are listened to", heard)
	f.eventually("they are not, while it is busy", func() bool {
		for range 100 {
			f.meets("127.0.0.1")
		}
		return !heard()
	})
	f.eventually("they are again", heard)
}

func TestCensus(t *testing.T) {
	front, err := listenAs("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	at := placeOfListener(addrOf(front))
	// The kernel knows of a connection before both ends do.
	count := func(what string, want int, carried map[Pair]bool) {
		t.Helper()
		n := -1
		for end := time.Now().Add(patience); n != want && time.Now().Before(end); time.Sleep(time.Millisecond) {
			if n, err = census([]place{at}, carried, 100); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		if n != want {
			t.Errorf("%s: %d connections, want %d", what, n, want)
		}
	}
	count("nobody", 0, nil)
	client, err := net.Dial("tcp4", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	count("not accepted", 1, nil)
	server, err := front.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	count("accepted", 1, nil)
	count("carried by us", 0, map[Pair]bool{{Local: addrPort(server.LocalAddr()), Remote: addrPort(server.RemoteAddr())}: true})
	server.(*net.TCPConn).CloseWrite()
	count("half-closed by the server", 1, nil)
	server.Close()
	count("closed by the server", 0, nil)
	client.Close()

	client, _ = net.Dial("tcp4", front.Addr().String())
	client.(*net.TCPConn).CloseWrite()
	count("not accepted, and half-closed", 1, nil)
	server, _ = front.Accept()
	count("half-closed by the client", 1, nil)
	server.Close()
	client.Close()
	count("closed by both", 0, nil)
}

func TestCensusSeesHandshakes(t *testing.T) {
	l, err := listenAs("defer", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	n, err := census([]place{placeOfListener(addrOf(l))}, nil, 100)
	if err != nil || n != 1 {
		t.Errorf("%d connections whose handshake waits for data, %v, want 1", n, err)
	}
}

func TestCensusStopsAtEnough(t *testing.T) {
	l, err := listenAs("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 20 {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for _, most := range []int{1, 7} {
		if n, err := census([]place{placeOfListener(addrOf(l))}, nil, most); n != most || err != nil {
			t.Errorf("up to %d: %d, %v", most, n, err)
		}
	}
}

func addrOf(l net.Listener) netip.AddrPort { return addrPort(l.Addr()) }
func addrPort(a net.Addr) netip.AddrPort   { return a.(*net.TCPAddr).AddrPort() }

func TestFailingFinderLeavesClientsToTheFront(t *testing.T) {
	f := newFront(t, "tcp4", "127.0.0.1:0")
	asked := make(chan struct{}, 100)
	f.path.Begin(1, func(context.Context) ([]Socket, error) {
		asked <- struct{}{}
		return nil, context.DeadlineExceeded
	})
	for range 3 {
		<-asked
		f.path.Again()
		if who := f.meets("127.0.0.1"); who != "front" {
			t.Errorf("a client meets %s", who)
		}
	}
}
