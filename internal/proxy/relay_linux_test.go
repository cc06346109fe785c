package proxy

import (
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// rig is a relay between two connections whose outer ends the test holds.
type rig struct {
	client, server peer
	w              *wires
	r              *relay
	done           chan outcome
	released       atomic.Int32
}

// newRig connects two ends through a relay.
func newRig(t *testing.T, clientNet, serverNet string, tune func(*wires)) *rig {
	t.Helper()
	g := &rig{done: make(chan outcome, 1), w: newWires(0)}
	if tune != nil {
		tune(g.w)
	}
	var in, out peer
	g.client, in = pair(t, clientNet)
	out, g.server = pair(t, serverNet)
	var err error
	if g.r, err = newRelay(g.w, in, out, g.release, g.end); err != nil {
		t.Fatal(err)
	}
	g.r.start()
	t.Cleanup(func() {
		g.client.Close()
		g.server.Close()
		g.r.kill()
		g.w.trim()
	})
	return g
}

func (g *rig) release() { g.released.Add(1) }

func (g *rig) end(out outcome) {
	g.w.trim()
	g.done <- out
}

// fd runs f on a connection's descriptor.
func fd[T any](t *testing.T, c net.Conn, f func(fd int) T) (v T) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { v = f(int(fd)) }); err != nil {
		t.Fatal(err)
	}
	return v
}

// broken reports whether the kernel says that the connection is reset, which
// is all that is to be seen after a FIN.
func broken(t *testing.T, c net.Conn) bool {
	t.Helper()
	return fd(t, c, pollEvents)&unix.POLLERR != 0
}

// unread returns how many bytes wait to be read.
func unread(t *testing.T, c net.Conn) int {
	t.Helper()
	return fd(t, c, func(fd int) int {
		n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
		if err != nil {
			t.Fatal(err)
		}
		return n
	})
}

// shrink makes a socket take little at once.
func shrink(t *testing.T, c peer) {
	t.Helper()
	c.(interface{ SetReadBuffer(int) error }).SetReadBuffer(64 << 10)
	c.(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(64 << 10)
}

var networks = []struct{ name, client, server string }{
	{"tcp-tcp", "tcp", "tcp"}, {"tcp-unix", "tcp", "unix"},
	{"unix-tcp", "unix", "tcp"}, {"unix-unix", "unix", "unix"},
}

// everyNetwork runs a test with every combination of sockets.
func everyNetwork(t *testing.T, test func(t *testing.T, client, server string)) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			leakFree(t)
			test(t, n.client, n.server)
		})
	}
}

func TestBytesAndEndsPassBothWays(t *testing.T) {
	everyNetwork(t, func(t *testing.T, c, s string) {
		g := newRig(t, c, s, nil)
		for _, n := range []int{1, 2, 1000, bufferSize - 1, bufferSize, bufferSize + 1} {
			b := pattern(n)
			say(t, g.client, b)
			hear(t, g.server, b)
			say(t, g.server, b)
			hear(t, g.client, b)
		}
		g.client.CloseWrite()
		hearEnd(t, g.server)
		say(t, g.server, pattern(100))
		hear(t, g.client, pattern(100))
		if g.released.Load() != 0 {
			t.Error("the lease was given back while the child still talks")
		}
		g.server.CloseWrite()
		hearEnd(t, g.client)
		out := await(t, "the relay ends", g.done)
		const total = 1 + 2 + 1000 + 3*bufferSize
		if out.up != total || out.down != total+100 || out.end != endClosed || out.retry {
			t.Errorf("outcome %+v, want %d up, %d down, closed", out, total, total+100)
		}
		if g.released.Load() == 0 {
			t.Error("the lease was not given back")
		}
	})
}

// A client that has said everything says so; the answer comes only then.
func TestAnswerAfterTheEnd(t *testing.T) {
	everyNetwork(t, func(t *testing.T, c, s string) {
		g := newRig(t, c, s, nil)
		question, answer := pattern(3000), pattern(1_000_000)
		say(t, g.client, question)
		g.client.CloseWrite()
		hear(t, g.server, question)
		hearEnd(t, g.server)
		told := make(chan error, 1)
		go func() {
			_, err := g.server.Write(answer)
			g.server.Close()
			told <- err
		}()
		hear(t, g.client, answer)
		hearEnd(t, g.client)
		if err := await(t, "the answer is written", told); err != nil {
			t.Error(err)
		}
		await(t, "the relay ends", g.done)
	})
}

// Much, in both directions at once, with a reader that stops now and then.
func TestBulkBothWays(t *testing.T) {
	const size = 50 << 20
	data := pattern(size)
	want := sha256.Sum256(data)
	everyNetwork(t, func(t *testing.T, c, s string) {
		g := newRig(t, c, s, nil)
		talk := func(p peer, told chan<- error) {
			_, err := p.Write(data)
			p.CloseWrite()
			told <- err
		}
		type result struct {
			n    int64
			hash [sha256.Size]byte
			err  error
		}
		read := func(p peer, told chan<- result) {
			var r result
			r.n, r.hash, r.err = sum(p)
			told <- r
		}
		wrote, heard := make(chan error, 2), make(chan result, 2)
		go talk(g.client, wrote)
		go talk(g.server, wrote)
		go read(g.client, heard)
		go read(g.server, heard)
		for range 2 {
			if err := await(t, "everything is written", wrote); err != nil {
				t.Error(err)
			}
			if r := await(t, "everything is read", heard); r.n != size || r.hash != want || r.err != nil {
				t.Errorf("read %d bytes and %v, same bytes: %v", r.n, r.err, r.hash == want)
			}
		}
		if out := await(t, "the relay ends", g.done); out.up != size || out.down != size {
			t.Errorf("counted %d and %d bytes, want %d", out.up, out.down, size)
		}
	})
}

// The bulk goes through the copy when there is no pipe to be had, and when
// there is one for one direction only.
func TestBulkWithoutPipes(t *testing.T) {
	for _, limit := range []int{0, 1} {
		leakFree(t)
		g := newRig(t, "tcp", "tcp", func(w *wires) { w.pipes.limit = limit })
		data := pattern(8 << 20)
		for _, p := range []struct{ from, to peer }{{g.client, g.server}, {g.server, g.client}} {
			go func() {
				p.from.Write(data)
				p.from.CloseWrite()
			}()
			hear(t, p.to, data)
			hearEnd(t, p.to)
		}
		await(t, "the relay ends", g.done)
	}
}

// A reset is never taken for an end, whatever came before it.
func TestResetStaysAReset(t *testing.T) {
	ends := map[string]func(g *rig) (breaks, sees peer){
		"client": func(g *rig) (peer, peer) { return g.client, g.server },
		"server": func(g *rig) (peer, peer) { return g.server, g.client },
	}
	for name, pick := range ends {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{1, 1000, 300_000} {
				leakFree(t)
				g := newRig(t, "tcp", "tcp", nil)
				breaks, sees := pick(g)
				// The bytes are ahead of the reset because they have arrived.
				say(t, breaks, pattern(n))
				eventually(t, "all is on the other side", func() bool {
					return unsent(t, breaks) == 0
				})
				reset(breaks)
				hear(t, sees, pattern(n))
				hearReset(t, sees)
				out := await(t, "the relay ends", g.done)
				if out.end == endClosed || out.retry {
					t.Errorf("outcome %+v", out)
				}
			}
		})
	}
}

// unsent returns how many bytes the peer's kernel has not acknowledged.
func unsent(t *testing.T, c net.Conn) int {
	t.Helper()
	return fd(t, c, func(fd int) int {
		n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		if err != nil {
			t.Fatal(err)
		}
		return n
	})
}

// An end that is followed by a reset before anybody could read it is passed on
// as both, behind all bytes.
func TestEndAndResetWhileBlocked(t *testing.T) {
	leakFree(t)
	g := newRig(t, "tcp", "tcp", func(w *wires) {
		w.limits.tick = 20 * time.Millisecond
		w.limits.stall = time.Hour
	})
	shrink(t, g.client)
	say(t, g.client, []byte("never read"))
	eventually(t, "input waits at the server", func() bool { return unread(t, g.server) > 0 })
	wrote := int64(stuff(t, g.server))
	g.server.CloseWrite()
	got := int64(0)
	for some := make([]byte, 16<<10); unsent(t, g.server) > 0; {
		n, err := g.client.Read(some)
		if errors.Is(err, io.EOF) {
			break // the end itself is not acknowledged yet
		}
		if err != nil {
			t.Fatal(err)
		}
		got += int64(n)
	}
	g.server.Close()
	eventually(t, "the reset is noticed", func() bool { return g.released.Load() > 0 })
	n, _, err := sum(g.client)
	if err != nil || n+got != wrote {
		t.Errorf("read %d of %d bytes and %v, want the end", n+got, wrote, err)
	}
	eventually(t, "the client is reset", func() bool { return broken(t, g.client) })
	await(t, "the relay ends", g.done)
}

// The first bytes are not lost with a server that resets before it takes them.
func TestFirstBytesSurviveAnEarlyReset(t *testing.T) {
	leakFree(t)
	for range 50 {
		client, in := pair(t, "tcp")
		out, server := pair(t, "tcp")
		say(t, client, []byte("HELLO"))
		eventually(t, "the bytes are there", func() bool { return unread(t, in) == 5 })
		reset(server)
		eventually(t, "the reset is there", func() bool { return broken(t, out) })
		g := &rig{client: client, w: newWires(0), done: make(chan outcome, 1)}
		var err error
		if g.r, err = newRelay(g.w, in, out, g.release, g.end); err != nil {
			t.Fatal(err)
		}
		g.r.start()
		if out := await(t, "the relay ends", g.done); !out.retry {
			t.Fatalf("outcome %+v, want a retry", out)
		}
		hear(t, in, []byte("HELLO"))
		client.Close()
		in.Close()
	}
}

// After a FIN a reset shows only as POLLERR, and it has to pass on while the
// other direction is still moving, or silent.
func TestResetAfterEnd(t *testing.T) {
	for _, talking := range []bool{false, true} {
		for _, who := range []string{"client", "server"} {
			t.Run(who, func(t *testing.T) {
				leakFree(t)
				g := newRig(t, "tcp", "tcp", nil)
				breaks, sees := g.client, g.server
				if who == "server" {
					breaks, sees = g.server, g.client
				}
				say(t, breaks, pattern(10))
				breaks.CloseWrite()
				hear(t, sees, pattern(10))
				hearEnd(t, sees)
				if talking {
					say(t, sees, pattern(100_000))
					hear(t, breaks, pattern(50_000))
				}
				reset(breaks)
				eventually(t, "the reset is passed on", func() bool { return broken(t, sees) })
				if out := await(t, "the relay ends", g.done); out.end == endClosed {
					t.Errorf("outcome %+v", out)
				}
			})
		}
	}
}

// The reset comes while its receiver takes nothing. It gets what had arrived
// before if it begins to read, and is reset after the stall time if it does not.
func TestResetWhileBlocked(t *testing.T) {
	for _, reads := range []bool{true, false} {
		leakFree(t)
		g := newRig(t, "tcp", "tcp", func(w *wires) {
			w.limits.tick = 20 * time.Millisecond
			if reads {
				w.limits.stall = time.Hour
			} else {
				w.limits.stall = 200 * time.Millisecond
			}
		})
		shrink(t, g.client)
		wrote := stuff(t, g.server)
		reset(g.server)
		eventually(t, "the child's side is over", func() bool { return g.released.Load() > 0 })
		if reads {
			n, _, err := sum(g.client)
			if !isReset(err) {
				t.Errorf("read %v after %d bytes, want a reset", err, n)
			}
			// What was in the server's own socket is lost with the reset.
			if n == 0 || n > int64(wrote) {
				t.Errorf("read %d bytes of %d", n, wrote)
			}
		} else {
			eventually(t, "the client is reset", func() bool { return broken(t, g.client) })
		}
		if out := await(t, "the relay ends", g.done); out.end != endUpstreamReset {
			t.Errorf("outcome %+v", out)
		}
	}
}

// stuff writes until nothing moves any more and returns how much it was.
func stuff(t *testing.T, c peer) int {
	t.Helper()
	chunk := pattern(64 << 10)
	total := 0
	for {
		c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := c.Write(chunk)
		total += n
		if err != nil {
			c.SetWriteDeadline(time.Time{})
			return total
		}
	}
}

// A child that has answered and closed leaves the tail to tiproxy, and so does
// one that was killed. A slow client gets all of it.
func TestTailOfAChildThatIsGone(t *testing.T) {
	everyNetwork(t, func(t *testing.T, c, s string) {
		g := newRig(t, c, s, func(w *wires) { w.limits.tick = 20 * time.Millisecond })
		data := pattern(6 << 20)
		g.client.(interface{ SetReadBuffer(int) error }).SetReadBuffer(16 << 10)
		g.client.CloseWrite()
		hearEnd(t, g.server)
		told := make(chan error, 1)
		go func() {
			_, err := g.server.Write(data)
			g.server.Close()
			told <- err
		}()
		// Nothing is read until the server has closed, if its kernel takes it all.
		slow := make([]byte, 32<<10)
		got := 0
		for got < len(data) {
			g.client.SetReadDeadline(time.Now().Add(patient))
			n, err := g.client.Read(slow)
			if err != nil {
				t.Fatalf("after %d bytes: %v", got, err)
			}
			if string(slow[:n]) != string(data[got:got+n]) {
				t.Fatalf("other bytes at %d", got)
			}
			got += n
		}
		hearEnd(t, g.client)
		if err := await(t, "the server has written", told); err != nil {
			t.Error(err)
		}
		if out := await(t, "the relay ends", g.done); out.end != endClosed {
			t.Errorf("outcome %+v", out)
		}
	})
}

// The lease ends when the child has closed, not when the client has read.
func TestTailHoldsNoLease(t *testing.T) {
	everyNetwork(t, func(t *testing.T, c, s string) {
		g := newRig(t, c, s, func(w *wires) { w.limits.tick = 20 * time.Millisecond })
		shrink(t, g.client)
		g.client.CloseWrite()
		hearEnd(t, g.server)
		wrote := int64(stuff(t, g.server))
		// The rest is to be in tiproxy's hands, not in the child's kernel.
		got := int64(0)
		for some := make([]byte, 16<<10); unsent(t, g.server) > 0 && s == "tcp"; {
			n, err := g.client.Read(some)
			if err != nil {
				t.Fatal(err)
			}
			got += int64(n)
		}
		g.server.Close()
		eventually(t, "the lease is given back", func() bool { return g.released.Load() > 0 })
		if unread(t, g.client) == 0 {
			t.Error("there is no tail to speak of")
		}
		n, _, err := sum(g.client)
		if n+got != wrote || err != nil {
			t.Errorf("read %d of %d bytes and %v", n+got, wrote, err)
		}
		await(t, "the relay ends", g.done)
	})
}

// A server that closes with unread input resets the connection, which may
// destroy what it has sent; what has reached tiproxy is not destroyed again.
func TestCloseWithUnreadInput(t *testing.T) {
	leakFree(t)
	g := newRig(t, "tcp", "tcp", nil)
	say(t, g.client, pattern(50_000))
	eventually(t, "input waits at the server", func() bool { return unread(t, g.server) == 50_000 })
	say(t, g.server, pattern(200_000))
	eventually(t, "the output has left the server", func() bool { return unsent(t, g.server) == 0 })
	g.server.Close()
	hear(t, g.client, pattern(200_000))
	hearReset(t, g.client)
	await(t, "the relay ends", g.done)
}
