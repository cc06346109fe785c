package proxy

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// told is what a child that reads the header learns of its client.
type told struct {
	header
	nc net.Conn
}

// newHeaderChild prepares a life that expects the header.
func newHeaderChild(t *testing.T, c *child, seen chan<- told) {
	t.Helper()
	c.will(newLife(listen(t, "tcp"), func(nc net.Conn) {
		h, err := readHeader(t.Context(), nc, patient)
		if err != nil {
			t.Errorf("the child reads the header: %v", err)
			nc.Close()
			return
		}
		seen <- told{h, nc}
		echo(nc)
	}))
}

// The child learns its client's address, before any byte of it, also from a
// client that says nothing: a server that speaks first waits for the header.
func TestChildLearnsItsClientsAddress(t *testing.T) {
	leakFree(t)
	for version := range byte(2) {
		c := newChild(t)
		seen := make(chan told, 1)
		newHeaderChild(t, c, seen)
		h := newHouse(t, "tcp", c, Config{Header: version + 1})
		client := from(t, "127.0.0.7", h.addr)
		got := await(t, "the header", seen)
		if want := client.LocalAddr().String(); got.source.String() != want || got.dest.String() != h.addr.String() {
			t.Errorf("version %d: from %v to %v, want from %v to %v", version+1, got.source, got.dest, want, h.addr)
		}
		bulk := pattern(4 << 20)
		go client.Write(bulk)
		hear(t, client, bulk)
		client.CloseWrite()
		hearEnd(t, client)
	}
}

// A client on a unix socket has no address to tell.
func TestHeaderOfAUnixClient(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	seen := make(chan told, 1)
	newHeaderChild(t, c, seen)
	h := newHouse(t, "unix", c, Config{Header: 2})
	client := connect(t, h.addr)
	if got := await(t, "the header", seen); !got.local {
		t.Errorf("got %+v", got.header)
	}
	say(t, client, []byte("x"))
	hear(t, client, []byte("x"))
}

// A child that resets before the client's first byte gets the header again,
// once per connection.
func TestHeaderIsSentAgainOnRetry(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	seen := make(chan told, 8)
	var times atomic.Int32
	life := c.will(newLife(listen(t, "tcp"), nil))
	life.serve = func(nc net.Conn) {
		h, err := readHeader(t.Context(), nc, patient)
		if err != nil {
			t.Errorf("the child reads the header: %v", err)
		}
		seen <- told{h, nc}
		if times.Add(1) < 3 {
			reset(nc)
			return
		}
		echo(nc)
	}
	h := newHouse(t, "tcp", c, Config{Header: 1})
	client := connect(t, h.addr)
	for range 3 {
		if got := await(t, "the header", seen); got.source.String() != client.LocalAddr().String() {
			t.Errorf("from %v", got.source)
		}
	}
	say(t, client, []byte("x"))
	hear(t, client, []byte("x"))
}

// trustLocal believes what 127.0.0.1 says.
var trustLocal = prefixes("127.0.0.1/32")

// What a trusted peer says of its client counts: for the child, for who may
// connect, and for the counting of sources.
func TestTrustedHeaderCounts(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	seen := make(chan told, 4)
	newHeaderChild(t, c, seen)
	h := newHouse(t, "tcp", c, Config{Header: 2, TrustHeader: trustLocal, Admission: Admission{Deny: prefixes("192.0.2.66/32"), PerSource: 1}})
	connectAs(t, h.addr, "192.0.2.66:1")
	eventually(t, "it is turned away", func() bool { return h.Stats().TurnedAway == 1 })
	if h.pool.Snapshot().Starts != 0 {
		t.Error("somebody who is denied has woken the child")
	}
	client := connectAs(t, h.addr, "192.0.2.1:1234")
	say(t, client, []byte("x"))
	hear(t, client, []byte("x"))
	if got := await(t, "the header", seen).source.String(); got != "192.0.2.1:1234" {
		t.Errorf("the child sees %s", got)
	}
	hearReset(t, connectAs(t, h.addr, "192.0.2.1:1235"))
	other := connectAs(t, h.addr, "192.0.2.2:1")
	say(t, other, []byte("y"))
	hear(t, other, []byte("y"))
	for _, line := range []string{`"client refused" source=192.0.2.66 reason="in --deny"`, `"client refused" source=192.0.2.1 reason="too many`} {
		if h.logs.count(line) != 1 {
			t.Errorf("the log does not say %s:\n%s", line, h.logs)
		}
	}
}

// connectAs connects and says on whose behalf.
func connectAs(t *testing.T, to net.Addr, source string) peer {
	t.Helper()
	nc := connect(t, to)
	b, err := encodeHeader(1, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(source)), to)
	if err != nil {
		t.Fatal(err)
	}
	say(t, nc, b)
	return nc
}

// A header from anybody else is the client's own bytes, and nothing is believed.
func TestForgedHeaderIsJustBytes(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	c.will(newLife(listen(t, "tcp"), echo))
	h := newHouse(t, "tcp", c, Config{TrustHeader: prefixes("127.0.0.9/32")})
	client := connect(t, h.addr)
	forged := []byte("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET /")
	say(t, client, forged)
	hear(t, client, forged)
}

// A trusted peer without a header is refused and named: whoever it connects
// for cannot be told. One that goes away just goes.
func TestTrustedPeerWithoutHeader(t *testing.T) {
	leakFree(t)
	h := newHouse(t, "tcp", newChild(t), Config{TrustHeader: trustLocal})
	client := connect(t, h.addr)
	say(t, client, []byte("GET / HTTP/1.1\r\n"))
	_, err := client.Read(make([]byte, 1))
	if !isReset(err) {
		t.Errorf("got %v, want a reset", err)
	}
	eventually(t, "it is said", func() bool { return h.logs.count("there is none") == 1 })
	connect(t, h.addr).Close()
	eventually(t, "it has left", func() bool { return h.Stats().ClientLeft == 1 })
	waits := connect(t, h.addr)
	eventually(t, "it is there", func() bool { return h.Connections() == 1 })
	h.Drain()
	waits.SetReadDeadline(time.Now().Add(patient))
	if _, err := waits.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) && !isReset(err) {
		t.Errorf("at the end of tiproxy: %v, want a reset", err)
	}
}
