package proxy

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A unix peer that has closed is gone for good, which only a write would tell.
func TestOrphanOnUnix(t *testing.T) {
	leakFree(t)
	g := newRig(t, "unix", "tcp", func(w *wires) { w.limits.orphan = 50 * time.Millisecond })
	say(t, g.client, pattern(10))
	g.client.Close()
	hear(t, g.server, pattern(10))
	hearEnd(t, g.server)
	eventually(t, "the server learns that nobody reads its answer", func() bool { return broken(t, g.server) })
	if out := await(t, "the relay ends", g.done); out.end != endClientReset {
		t.Errorf("outcome %+v", out)
	}
}

func TestEarlyResetLeavesTheClientUntouched(t *testing.T) {
	everyNetwork(t, func(t *testing.T, c, s string) {
		if s == "unix" {
			return // closing a unix socket is an end unless bytes were left unread
		}
		for _, ended := range []bool{false, true} {
			g := newRig(t, c, s, nil)
			if ended {
				g.client.CloseWrite()
				hearEnd(t, g.server)
			}
			reset(g.server)
			out := await(t, "the relay ends", g.done)
			if !out.retry || out.up != 0 || out.down != 0 {
				t.Fatalf("outcome %+v, want a retry", out)
			}
			if g.released.Load() != 0 {
				t.Error("the lease was given back although it goes on")
			}
			// The client's leg carries on with another server.
			out2, server := pair(t, s)
			again, err := newRelay(g.w, g.r.client.conn, out2, g.release, g.end)
			if err != nil {
				t.Fatal(err)
			}
			g.r = again
			g.r.start()
			if !ended {
				say(t, g.client, pattern(100))
				hear(t, server, pattern(100))
				g.client.CloseWrite()
			}
			hearEnd(t, server)
			say(t, server, pattern(77))
			server.Close()
			hear(t, g.client, pattern(77))
			hearEnd(t, g.client)
			await(t, "the relay ends", g.done)
		}
	})
}

// Nothing is tried again once a byte has gone either way.
func TestLateResetIsNotRetried(t *testing.T) {
	for _, dir := range []string{"up", "down"} {
		leakFree(t)
		g := newRig(t, "tcp", "tcp", nil)
		from, to := g.client, g.server
		if dir == "down" {
			from, to = to, from
		}
		say(t, from, []byte("x"))
		hear(t, to, []byte("x"))
		reset(g.server)
		hearReset(t, g.client)
		if out := await(t, "the relay ends", g.done); out.retry || out.end != endUpstreamReset {
			t.Errorf("%s: outcome %+v", dir, out)
		}
	}
}

func TestKillResetsBoth(t *testing.T) {
	leakFree(t)
	g := newRig(t, "tcp", "tcp", nil)
	say(t, g.client, []byte("x"))
	hear(t, g.server, []byte("x"))
	g.r.kill()
	hearReset(t, g.client)
	hearReset(t, g.server)
	if out := await(t, "the relay ends", g.done); out.end != endKilled || out.retry {
		t.Errorf("outcome %+v", out)
	}
}

// Both legs answer at once and tell peers that vanished.
func TestSocketOptions(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	c.will(newLife(listen(t, "tcp"), echo))
	h := newHouse(t, "tcp", c, Config{})
	client := connect(t, h.addr)
	say(t, client, []byte("x"))
	hear(t, client, []byte("x"))
	h.mu.Lock()
	var r *relay
	for c := range h.conns {
		c.mu.Lock()
		r = c.relay
		c.mu.Unlock()
	}
	h.mu.Unlock()
	for _, leg := range []*leg{&r.client, &r.up} {
		for name, o := range map[string][3]int{
			"TCP_NODELAY":      {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			"SO_KEEPALIVE":     {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			"TCP_KEEPIDLE":     {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
			"TCP_KEEPINTVL":    {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
			"TCP_KEEPCNT":      {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
			"TCP_USER_TIMEOUT": {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0},
			"SO_PROTOCOL":      {unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
		} {
			got := fd(t, leg.conn, func(fd int) int {
				v, err := unix.GetsockoptInt(fd, o[0], o[1])
				if err != nil {
					t.Fatal(err)
				}
				return v
			})
			if got != o[2] {
				t.Errorf("%s is %d, want %d", name, got, o[2])
			}
		}
	}
}

// A peer that takes nothing is not cut while the other one lives, and blocks
// nobody: the other direction moves.
func TestSlowReaderIsNotCut(t *testing.T) {
	everyNetwork(t, func(t *testing.T, c, s string) {
		g := newRig(t, c, s, func(w *wires) {
			w.limits.tick = 5 * time.Millisecond
			w.limits.stall = 20 * time.Millisecond
		})
		wrote := stuff(t, g.server) // takes many ticks and stall times
		say(t, g.client, pattern(1000))
		hear(t, g.server, pattern(1000))
		g.server.CloseWrite()
		n, _, err := sum(g.client)
		if n != int64(wrote) || err != nil {
			t.Errorf("read %d of %d bytes and %v", n, wrote, err)
		}
		g.client.Close()
		await(t, "the relay ends", g.done)
	})
}

// splice does not get past an urgent byte. With an end behind it that looks
// like the end of the stream, and like nothing to read without one.
func TestUrgentByteInBulk(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	c.will(newLife(listen(t, "tcp"), echo))
	h := newHouse(t, "tcp", c, Config{})
	for _, ended := range []bool{false, true} {
		client := connect(t, h.addr)
		data := pattern(8 * bufferSize)
		mark := 6*bufferSize + 1
		go func() {
			client.Write(data[:mark]) // what is lost is missed below
			fd(t, client, func(fd int) error {
				return unix.Sendto(fd, data[mark:mark+1], unix.MSG_OOB, nil)
			})
			client.Write(data[mark+1:])
			if ended {
				client.CloseWrite()
			}
		}()
		hear(t, client, data)
		if ended {
			hearEnd(t, client)
		}
	}
}
