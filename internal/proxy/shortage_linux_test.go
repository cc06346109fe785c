package proxy

import (
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// What tiproxy lacks itself is no reason to doubt the child, and no part of the
// time that the child has to take a connection.
func TestShortage_IsNotTheChildsFault(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	life := newLife(listen(t, "tcp"), echo)
	c.will(life)
	h := newHouse(t, "tcp", c, Config{Hold: time.Minute})
	first := connect(t, h.addr)
	say(t, first, []byte("x"))
	hear(t, first, []byte("x"))
	l, ok := h.pool.TryGet()
	if !ok {
		t.Fatal("no lease")
	}
	for errno, ours := range map[syscall.Errno]bool{
		syscall.EMFILE: true, syscall.ENFILE: true, syscall.ENOBUFS: true, syscall.ENOMEM: true, syscall.EADDRNOTAVAIL: true,
		syscall.ECONNREFUSED: false, syscall.ECONNRESET: false,
	} {
		one := &conn{srv: h.Server, lease: l}
		h.trust = trust{}
		one.failed(nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)})
		if doubted := h.trust.fickle; doubted == ours {
			t.Errorf("%v: the child is doubted: %v", errno, doubted)
		}
		if counted := one.patience.last != nil; counted == ours || one.patience.until.IsZero() != ours {
			t.Errorf("%v: the child's time runs: %v until %v", errno, counted, one.patience.until)
		}
		if one.patience.next.IsZero() {
			t.Errorf("%v: dialed again at once", errno)
		}
	}
	h.pool.Put(l)
}

func TestMostConnections_LeavesRoomForPipes(t *testing.T) {
	for _, limit := range []int{0, 10, 64, 100, 1024, 20_000, 1 << 20} {
		most := mostConnections(limit)
		if most < 1 || limit > 200 && 2*most+spareDescriptors > limit+1 {
			t.Errorf("%d connections under a limit of %d", most, limit)
		}
		for _, connections := range []int{1, most / 2, most} {
			var p pipes
			p.setLimit(max(connections, 1), limit)
			need := 2*connections + 2*p.limit
			if p.limit < 1 || p.limit > pipesLeast && need+spareDescriptors > limit {
				t.Errorf("%d pipes for %d connections under a limit of %d", p.limit, connections, limit)
			}
		}
	}
}
