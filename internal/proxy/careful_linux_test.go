package proxy

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"tiproxy/internal/pool"
)

// A child that closes its listener resets whoever is in its backlog, with what
// was sent. So nothing is sent there: the next child gets it all.
func TestBacklogOfAnEndingChildIsServedByTheNext(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	asked := make(chan struct{}, 1024)
	var last atomic.Bool
	taken := func(net.Conn) (bool, bool) {
		asked <- struct{}{}
		return last.Load(), true
	}
	l := newLife(listen(t, "tcp"), nil) // nobody accepts
	c.will(l)
	c.will(newLife(listen(t, "tcp"), echo))
	h := newHouse(t, "tcp", c, Config{Hold: time.Hour, Taken: taken})
	client := connect(t, h.addr)
	say(t, client, []byte("HELLO"))
	client.CloseWrite()
	await(t, "the connection is in the backlog", asked)
	last.Store(true)
	l.exit(pool.Exit{Status: "exit status 0"})
	hear(t, client, []byte("HELLO"))
	hearEnd(t, client)
	if n := h.pool.Snapshot().Gen; n != 2 {
		t.Errorf("served by life %d, want 2", n)
	}
}

// A connection that is slow to be taken is not made twice: the child would find
// one that nobody uses.
func TestSlowAcceptIsOneConnection(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	var made atomic.Int32
	var taken atomic.Bool
	ln := listen(t, "tcp")
	c.will(newLife(ln, func(nc net.Conn) { made.Add(1); echo(nc) }))
	asked := make(chan time.Time, 1<<16)
	h := newHouse(t, "tcp", c, Config{Hold: time.Hour, Taken: func(net.Conn) (bool, bool) {
		asked <- time.Now()
		return taken.Load(), true
	}})
	warm := connect(t, h.addr)
	taken.Store(true)
	say(t, warm, []byte("x"))
	hear(t, warm, []byte("x"))
	taken.Store(false)
	for len(asked) > 0 {
		<-asked
	}
	client := connect(t, h.addr) // by the fast path, which waits lookTime at most
	say(t, client, []byte("HELLO"))
	for first := <-asked; time.Since(first) < 2*lookTime; {
		await(t, "it is asked again", asked)
	}
	taken.Store(true)
	hear(t, client, []byte("HELLO"))
	if n := made.Load(); n != 2 {
		t.Errorf("%d connections for two clients", n)
	}
}

// A child that has taken many is believed; one that refuses is asked again.
func TestTrust(t *testing.T) {
	var tr trust
	for n := range provenBy {
		if tr.proven(1) {
			t.Fatalf("proven by %d", n)
		}
		tr.took(1)
	}
	if !tr.proven(1) || tr.proven(2) {
		t.Error("life 1 has proved itself, life 2 has not")
	}
	tr.doubt()
	for n := range forgivenBy {
		if tr.proven(1) {
			t.Fatalf("forgiven after %d", n)
		}
		tr.took(1)
	}
	if !tr.proven(1) {
		t.Error("not forgiven")
	}
	tr.took(2)
	if tr.proven(1) || tr.proven(2) {
		t.Error("a new life is believed at once")
	}
}

// Somebody who took the port from a child that goes on is not dialed.
func TestStrangerWhoTookThePortIsNotDialed(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	var dialed atomic.Int32
	l := c.will(newLife(listen(t, "tcp"), func(nc net.Conn) { dialed.Add(1); echo(nc) }))
	h := newHouse(t, "tcp", c, Config{Hold: time.Hour, Taken: func(net.Conn) (bool, bool) { return true, true }})
	first := connect(t, h.addr)
	say(t, first, []byte("x"))
	hear(t, first, []byte("x"))
	l.busy() // its listener is another one's now, says the probe
	second := connect(t, h.addr)
	say(t, second, []byte("password"))
	await(t, "the probe is asked", l.asked)
	eventually(t, "the client waits", func() bool { return len(l.asked) > 0 || h.Stats().Refused > 0 })
	if n := dialed.Load(); n != 1 {
		t.Errorf("%d connections were made, want 1", n)
	}
}

// The look by which a child was found ready stands for those of the clients who
// waited for it; who comes later looks again.
func TestWhoWaitedForTheStartDoesNotLookAgain(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	l := c.will(newLife(listen(t, "tcp"), echo))
	ready := l.booting()
	h := newHouse(t, "tcp", c, Config{Hold: time.Hour, Taken: func(net.Conn) (bool, bool) { return true, true }})
	first := connect(t, h.addr)
	eventually(t, "it waits", func() bool { return h.pool.Snapshot().Waiting == 1 })
	before := time.Now()
	ready()
	say(t, first, []byte("x"))
	hear(t, first, []byte("x"))
	if n := len(l.asked); n > 0 && time.Since(before) < freshTime {
		t.Errorf("%d looks, want none", n)
	}
	for len(l.asked) > 0 {
		<-l.asked
	}
	second := connect(t, h.addr)
	say(t, second, []byte("x"))
	hear(t, second, []byte("x"))
	if n := len(l.asked); n != 1 {
		t.Errorf("%d looks for one who comes later, want 1", n)
	}
}

// A crowd that asks at the same time shares one look, which begins after all
// of them have asked.
func TestCrowdSharesALook(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	l := c.will(newLife(listen(t, "tcp"), echo))
	h := newHouse(t, "tcp", c, Config{})
	client := connect(t, h.addr)
	say(t, client, []byte("x"))
	hear(t, client, []byte("x"))
	lease, ok := h.pool.TryGet()
	if !ok {
		t.Fatal("no lease")
	}
	defer h.pool.Put(lease)

	listens := l.busy()
	first := h.looks.ask(t.Context(), lease)
	await(t, "the first look has begun", l.asked)
	shared := h.looks.ask(t.Context(), lease)
	if shared == first {
		t.Fatal("a look that had begun was shared")
	}
	for range 100 {
		if one := h.looks.ask(t.Context(), lease); one != shared {
			t.Fatal("somebody looks for himself")
		}
	}
	listens()
	await(t, "the look is over", shared.over)
	if shared.err != nil || shared.addr != l.addr {
		t.Errorf("seen: %v, %v", shared.addr, shared.err)
	}
	if n := len(l.asked); n != 1 {
		t.Errorf("%d looks for a crowd", n)
	}
}
