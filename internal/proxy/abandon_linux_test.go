package proxy

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"tiproxy/internal/pool"
)

// At the end of the program a client that does not read must not take a part
// for the whole: what it is still owed by us ends in a reset.
func TestAbandonedTailIsAReset(t *testing.T) {
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
	h.Abandon()
	n, _, err := sum(client)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d of %d bytes and %v, want a reset", n, wrote, err)
	}
}

// A client that was given everything and its end is left to the kernel.
func TestAbandonLeavesWhatTheKernelHas(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	served := make(chan net.Conn, 1)
	c.will(newLife(listen(t, "tcp"), func(nc net.Conn) { served <- nc }))
	h := newHouse(t, "tcp", c, Config{})
	client := connect(t, h.addr)
	say(t, client, []byte("x"))
	server := await(t, "the child accepts", served).(peer)
	hear(t, server, []byte("x"))
	say(t, server, []byte("all of it"))
	if err := server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	hear(t, client, []byte("all of it"))
	if n, _, err := sum(client); n != 0 || err != nil {
		t.Fatalf("%d bytes and %v where the end was to come", n, err)
	}
	h.Abandon()
	say(t, client, []byte("goes on"))
	hear(t, server, []byte("goes on"))
}
