package proxy

import (
	"net"
	"testing"
	"time"

	"tiproxy/internal/pool"
)

// short is a time of a test that is sure to pass.
const short = 30 * time.Millisecond

// from dials from an address of its own.
func from(t *testing.T, ip string, to net.Addr) peer {
	t.Helper()
	c, err := tryFrom(ip, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(peer)
}

func tryFrom(ip string, to net.Addr) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	return d.Dial(to.Network(), to.String())
}

// isTurnedAway dials and finds itself reset, at once or a moment later.
func isTurnedAway(t *testing.T, ip string, to net.Addr) {
	t.Helper()
	c, err := tryFrom(ip, to)
	switch {
	case err == nil:
		defer c.Close()
		hearReset(t, c)
	case !isReset(err):
		t.Fatal(err)
	}
}

// Who is not served is reset and never wakes the child.
func TestDeniedClientStartsNothing(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	c.will(newLife(listen(t, "tcp"), echo))
	h := newHouse(t, "tcp", c, Config{Admission: Admission{Allow: prefixes("127.0.0.0/8"), Deny: prefixes("127.0.0.2/32")}})
	for range 5 {
		isTurnedAway(t, "127.0.0.2", h.addr)
	}
	if starts := h.pool.Snapshot().Starts; starts != 0 {
		t.Errorf("%d starts", starts)
	}
	if n := h.logs.count("client refused"); n != 1 {
		t.Errorf("%d lines, want one:\n%s", n, h.logs)
	}
	client := from(t, "127.0.0.3", h.addr)
	say(t, client, []byte("x"))
	hear(t, client, []byte("x"))
	if n := h.Stats().TurnedAway; n != 5 {
		t.Errorf("%d turned away", n)
	}
}

// While one source floods, an honest client of another one is served.
func TestPerSourceLimitUnderAFlood(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	c.will(newLife(listen(t, "tcp"), echo))
	h := newHouse(t, "tcp", c, Config{MaxConnections: 20, Admission: Admission{PerSource: 3}})
	var flood []peer
	for range 3 {
		flood = append(flood, from(t, "127.0.0.2", h.addr))
	}
	for _, f := range flood {
		say(t, f, []byte("x"))
		hear(t, f, []byte("x"))
	}
	for range 50 {
		isTurnedAway(t, "127.0.0.2", h.addr)
	}
	honest := from(t, "127.0.0.3", h.addr)
	say(t, honest, []byte("x"))
	hear(t, honest, []byte("x"))
	flood[0].Close()
	eventually(t, "the place of one that has left is free", func() bool { return h.Connections() == 3 })
	again := from(t, "127.0.0.2", h.addr)
	say(t, again, []byte("x"))
	hear(t, again, []byte("x"))
}

// Beyond the limit of those who wait nobody is accepted, and nobody refused.
func TestMaxWaiting(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	ready := c.will(newLife(listen(t, "tcp"), echo)).booting()
	h := newHouse(t, "tcp", c, Config{MaxWaiting: 2})
	var clients []peer
	for range 6 {
		client := connect(t, h.addr) // the rest in the backlog
		say(t, client, []byte("x"))
		clients = append(clients, client)
	}
	eventually(t, "two wait", func() bool { return h.pool.Snapshot().Waiting == 2 })
	eventually(t, "it is said", func() bool { return h.logs.count("accept paused") == 1 })
	if n := h.Connections(); n != 2 {
		t.Errorf("%d connections were accepted, want 2", n)
	}
	ready()
	for _, client := range clients {
		hear(t, client, []byte("x"))
	}
	if n := h.Connections(); n != 6 {
		t.Errorf("%d connections, want all 6: those who are served do not wait", n)
	}
	eventually(t, "it is said that this is over, though nobody comes", func() bool { return h.logs.count("accept resumed") == 1 })
}

// Those who say nothing do not wait for the child, however many they are: they
// keep nobody from it who does.
func TestMaxWaitingIsNotForTheSilent(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	ready := c.will(newLife(listen(t, "tcp"), echo)).booting()
	h := newHouse(t, "tcp", c, Config{MaxWaiting: 1, WakeOnData: true})
	var silent []peer
	for range 3 {
		silent = append(silent, connect(t, h.addr))
	}
	honest := connect(t, h.addr)
	say(t, honest, []byte("x"))
	eventually(t, "it waits for the child", func() bool { return h.pool.Snapshot().Waiting == 1 })
	for _, s := range silent {
		say(t, s, []byte("y")) // no longer, and beyond the limit
	}
	late := connect(t, h.addr) // in the backlog
	say(t, late, []byte("z"))
	eventually(t, "it is said", func() bool { return h.logs.count("accept paused") == 1 })
	if n := h.pool.Snapshot().Waiting; n != 1 {
		t.Errorf("%d wait for the child", n)
	}
	ready()
	hear(t, honest, []byte("x"))
	for _, s := range silent {
		hear(t, s, []byte("y"))
	}
	hear(t, late, []byte("z"))
}

// The end of tiproxy reaches those who would wait if there was a place.
func TestMaxWaitingEndsWithDrain(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	c.will(newLife(listen(t, "tcp"), echo)).booting()
	h := newHouse(t, "tcp", c, Config{MaxWaiting: 1, WakeOnData: true})
	var clients []peer
	for range 3 {
		clients = append(clients, connect(t, h.addr))
	}
	eventually(t, "all are accepted", func() bool { return h.Connections() == 3 })
	for _, client := range clients {
		say(t, client, []byte("x"))
	}
	eventually(t, "one waits for the child", func() bool { return h.pool.Snapshot().Waiting == 1 })
	h.Drain()
	for _, client := range clients {
		hearReset(t, client)
	}
	eventually(t, "they are counted", func() bool { return h.Stats().Drained == 3 })
}

// Those who wait and leave make room.
func TestMaxWaitingMakesRoom(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	ready := c.will(newLife(listen(t, "tcp"), echo)).booting()
	h := newHouse(t, "tcp", c, Config{MaxWaiting: 1})
	for range 3 {
		client := connect(t, h.addr)
		eventually(t, "it waits", func() bool { return h.pool.Snapshot().Waiting == 1 })
		reset(client)
		eventually(t, "it has left", func() bool { return h.Connections() == 0 })
	}
	client := connect(t, h.addr)
	ready()
	say(t, client, []byte("x"))
	hear(t, client, []byte("x"))
}

// A client that says nothing does not wake the child; its first byte does.
func TestWakeOnData(t *testing.T) {
	leakFree(t)
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			c := newChild(t)
			c.will(newLife(listen(t, "tcp"), echo))
			h := newHouse(t, network, c, Config{WakeOnData: true})
			silent := connect(t, h.addr)
			hangsUp := connect(t, h.addr)
			hangsUp.CloseWrite()
			hearEnd(t, hangsUp)
			reset(connect(t, h.addr))
			eventually(t, "only the silent one is left", func() bool { return h.Stats().ClientLeft == 2 })
			if starts := h.pool.Snapshot().Starts; starts != 0 {
				t.Fatalf("%d starts though nobody has said anything", starts)
			}
			say(t, silent, []byte("hello"))
			hear(t, silent, []byte("hello"))
			silent.CloseWrite()
			hearEnd(t, silent)
		})
	}
}

func TestWakeOnDataThatComesWithTheEnd(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	c.will(newLife(listen(t, "tcp"), echo))
	h := newHouse(t, "tcp", c, Config{WakeOnData: true})
	client := connect(t, h.addr)
	say(t, client, []byte("hello"))
	client.CloseWrite()
	hear(t, client, []byte("hello"))
	hearEnd(t, client)
}

// The end of tiproxy and the quiet policy reach a client that says nothing.
func TestWakeOnDataIsBounded(t *testing.T) {
	leakFree(t)
	h := newHouse(t, "tcp", newChild(t), Config{WakeOnData: true})
	waits := connect(t, h.addr)
	eventually(t, "it is accepted", func() bool { return h.Connections() == 1 })
	h.Drain()
	hearReset(t, waits)

	h = newHouse(t, "tcp", newChild(t), Config{WakeOnData: true, Quiet: Quiet{After: short, Close: true}})
	hearEnd(t, connect(t, h.addr))
	eventually(t, "it is counted", func() bool { return h.Stats().Quiet == 1 })
}

// The network that starts the child too often waits, and nothing else happens
// to it.
func TestWakeRateIsTold(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	for range 2 {
		c.will(newLife(listen(t, "tcp"), echo))
	}
	h := newHouseOf(t, "tcp", c, Config{}, pool.Config{Idle: time.Millisecond, WakeRate: pool.Rate{N: 1, Per: time.Hour}})
	first := from(t, "127.0.0.2", h.addr)
	say(t, first, []byte("x"))
	hear(t, first, []byte("x"))
	first.Close()
	eventually(t, "it is closed again", func() bool { return h.pool.Snapshot().State == pool.Closed })
	held := from(t, "127.0.0.3", h.addr) // the same /24
	say(t, held, []byte("y"))
	eventually(t, "it is told", func() bool { return h.logs.count("wake held back") == 1 })
	other := from(t, "127.0.1.1", h.addr)
	say(t, other, []byte("z"))
	hear(t, other, []byte("z"))
	hear(t, held, []byte("y"))
}

// A quiet connection stays and lets the child sleep; it ends with the child.
func TestQuietConnectionLetsTheChildSleep(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	served := make(chan net.Conn, 1)
	life := c.will(newLife(listen(t, "tcp"), func(nc net.Conn) { served <- nc }))
	h := newHouseOf(t, "tcp", c, Config{Quiet: Quiet{After: short}}, pool.Config{Idle: short})
	client := connect(t, h.addr)
	say(t, client, []byte("x"))
	up := await(t, "the child is connected", served)
	defer up.Close()
	hear(t, up, []byte("x"))
	eventually(t, "the child is stopped", func() bool { return isOver(life.stop) })
	say(t, up, []byte("bye")) // its last words still arrive
	up.Close()
	hear(t, client, []byte("bye"))
	hearEnd(t, client)
}

// A byte in either direction keeps the child.
func TestQuietConnectionIsRoused(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	life := c.will(newLife(listen(t, "tcp"), echo))
	h := newHouseOf(t, "tcp", c, Config{Quiet: Quiet{After: short}}, pool.Config{Idle: time.Hour})
	client := connect(t, h.addr)
	for range 3 {
		say(t, client, []byte("x"))
		hear(t, client, []byte("x"))
		if isOver(life.stop) {
			t.Fatal("the child was stopped")
		}
		eventually(t, "it rests", func() bool { return h.pool.Snapshot().Resting == 1 })
	}
	client.Close()
	eventually(t, "it is gone", func() bool { return h.pool.Snapshot().Connections == 0 })
}

// A child resets a connection on which nobody has said anything. The client is
// tried again, and from then on the connection counts like any other.
func TestQuietConnectionCountsWhenItIsTriedAgain(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	served := make(chan net.Conn, 2)
	c.will(newLife(listen(t, "tcp"), func(nc net.Conn) { served <- nc }))
	h := newHouseOf(t, "tcp", c, Config{Quiet: Quiet{After: 10 * short}}, pool.Config{Idle: time.Hour})
	client := connect(t, h.addr)
	first := await(t, "the child is connected", served)
	eventually(t, "it rests", func() bool { return h.pool.Snapshot().Resting == 1 })
	reset(first)
	again := await(t, "the child is connected again", served)
	go echo(again)
	eventually(t, "it counts while it is busy", func() bool {
		say(t, client, []byte("x"))
		hear(t, client, []byte("x"))
		return h.pool.Snapshot().Resting == 0
	})
}

// A quiet connection is ended politely on both sides, after its last byte.
func TestQuietConnectionIsEnded(t *testing.T) {
	leakFree(t)
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			c := newChild(t)
			served := make(chan net.Conn, 1)
			c.will(newLife(listen(t, network), func(nc net.Conn) { served <- nc }))
			h := newHouse(t, network, c, Config{Quiet: Quiet{After: short, Close: true}})
			client := connect(t, h.addr)
			say(t, client, []byte("x"))
			up := await(t, "the child is connected", served)
			hear(t, up, []byte("x"))
			say(t, up, []byte("y"))
			hear(t, client, []byte("y"))
			hearEnd(t, client)
			hearEnd(t, up)
			eventually(t, "it is counted", func() bool { return h.Stats().Quiet == 1 })
		})
	}
}

// A reader that takes nothing for a while is slow, not quiet.
func TestQuietSparesTheSlowReader(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	bulk := pattern(8 << 20)
	c.will(newLife(listen(t, "tcp"), func(nc net.Conn) {
		defer nc.Close()
		nc.Write(bulk)
	}))
	h := newHouse(t, "tcp", c, Config{Quiet: Quiet{After: short, Close: true}})
	client := connect(t, h.addr)
	eventually(t, "the way is full", func() bool { return h.Connections() == 1 })
	<-time.After(5 * short)
	hear(t, client, bulk)
	hearEnd(t, client)
}

func isOver(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
