package proxy

import (
	"net"
	"slices"
	"sync/atomic"
	"testing"
)

// The ends of what is carried are those that the listener and the child have,
// for as long as it is carried.
func TestEnds(t *testing.T) {
	var arrived atomic.Int32
	accepted := make(chan net.Conn, 1)
	ch := newChild(t)
	ch.will(newLife(listen(t, "tcp"), func(c net.Conn) {
		accepted <- c
		echo(c)
	}))
	h := newHouse(t, "tcp", ch, Config{Arrived: func() { arrived.Add(1) }})
	if ends := h.Ends(); len(ends) > 0 {
		t.Errorf("ends before anybody came: %v", ends)
	}
	client := connect(t, h.addr)
	say(t, client, []byte("hello"))
	hear(t, client, []byte("hello"))
	served := await(t, "the child's end", accepted)
	want := appendEnd(nil, client.RemoteAddr(), client.LocalAddr())
	want = appendEnd(want, served.LocalAddr(), served.RemoteAddr())
	if got := h.Ends(); !slices.Equal(got, want) {
		t.Errorf("ends %v, want %v", got, want)
	}
	client.Close()
	eventually(t, "nothing is carried", func() bool { return len(h.Ends()) == 0 })
	if n := arrived.Load(); n != 1 {
		t.Errorf("%d clients have arrived", n)
	}
}
