package proxy

import (
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// At the limit of descriptors the server waits, says so once, and recovers.
func TestNoDescriptorsLeft(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	c.will(newLife(listen(t, "tcp"), echo))
	h := newHouse(t, "tcp", c, Config{})
	first := connect(t, h.addr)
	say(t, first, []byte("x"))
	hear(t, first, []byte("x"))

	eat := exhaust(t)
	clients := make([]peer, 3)
	for i := range clients {
		clients[i] = eat.connect(h.addr)
	}
	eventually(t, "accept fails", func() bool { return h.logs.count("accept paused") == 1 })
	// Time passes at the limit: the open connection is served all along.
	for range 50 {
		say(t, first, []byte("y"))
		hear(t, first, []byte("y"))
	}
	eat.release()
	for _, client := range clients {
		say(t, client, []byte("z"))
		hear(t, client, []byte("z"))
	}
	eventually(t, "the episode is over", func() bool { return h.logs.count("accept resumed") == 1 })
	if n := h.logs.count("accept paused"); n != 1 {
		t.Errorf("%d lines for one episode:\n%s", n, h.logs)
	}
}

// eater holds all descriptors that this process may still open.
type eater struct {
	t    *testing.T
	held []int
	old  unix.Rlimit
}

// exhaust lowers the limit and eats what is left.
func exhaust(t *testing.T) *eater {
	t.Helper()
	e := &eater{t: t}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &e.old); err != nil {
		t.Fatal(err)
	}
	low := e.old
	low.Cur = 300
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.release)
	e.fill()
	return e
}

func (e *eater) fill() {
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == unix.EMFILE {
			return
		}
		if err != nil {
			e.t.Fatal(err)
		}
		e.held = append(e.held, fd)
	}
}

func (e *eater) spare(n int) {
	for range n {
		last := len(e.held) - 1
		unix.Close(e.held[last])
		e.held = e.held[:last]
	}
}

// connect gives up descriptors until there is one for the client's own end: the
// server may be quicker.
func (e *eater) connect(addr net.Addr) peer {
	e.t.Helper()
	var c net.Conn
	eventually(e.t, "a client's own end", func() (ok bool) {
		e.spare(1)
		var err error
		c, err = net.Dial(addr.Network(), addr.String())
		return err == nil
	})
	e.fill()
	e.t.Cleanup(func() { c.Close() })
	return c.(peer)
}

func (e *eater) release() {
	e.spare(len(e.held))
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &e.old); err != nil {
		e.t.Error(err)
	}
}

func TestErrorsOfAccept(t *testing.T) {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if err := error(&net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", e)}); !scarce(err) || fleeting(err) {
			t.Errorf("%v: scarce %v, fleeting %v", e, scarce(err), fleeting(err))
		}
	}
	for _, e := range []syscall.Errno{syscall.ECONNABORTED, syscall.EPROTO, syscall.ENETDOWN} {
		if err := error(&net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", e)}); scarce(err) || !fleeting(err) {
			t.Errorf("%v: scarce %v, fleeting %v", e, scarce(err), fleeting(err))
		}
	}
	if scarce(net.ErrClosed) || fleeting(net.ErrClosed) || fleeting(syscall.EBADF) {
		t.Error("a closed listener is no passing trouble")
	}
}

// An idle connection is two descriptors, also after it has moved bulk.
func TestIdleConnectionsHoldTwoDescriptors(t *testing.T) {
	leakFree(t)
	const many = 200
	c := newChild(t)
	c.will(newLife(listen(t, "tcp"), echo))
	h := newHouse(t, "tcp", c, Config{})
	before := openFiles(t)
	data := pattern(256 << 10)
	for range many {
		client := connect(t, h.addr)
		go client.Write(data) // read back below, so it does not fail
		hear(t, client, data)
	}
	// Two of the test's own and two of the server's each; the pipes that are
	// kept do not grow with the connections.
	if got, most := openFiles(t)-before, 4*many+2*pipesKept; got > most {
		t.Errorf("%d descriptors for %d connections, want at most %d", got, many, most)
	}
	h.wires.pipes.mu.Lock()
	made, free := h.wires.pipes.made, len(h.wires.pipes.free)
	h.wires.pipes.mu.Unlock()
	if made != free {
		t.Errorf("%d of %d pipes are held by connections that are idle", made-free, made)
	}
	if made == 0 {
		t.Error("no pipe was used: bulk was copied")
	}
}

// Peers that send and never read cost a bounded amount of memory each.
func TestMemoryOfThoseWhoNeverRead(t *testing.T) {
	leakFree(t)
	const many = 100
	stop := make(chan struct{})
	c := newChild(t)
	dest := listen(t, "tcp")
	smallBuffers(t, dest)
	c.will(newLife(dest, func(nc net.Conn) {
		defer nc.Close()
		<-stop
	}))
	h := newHouse(t, "tcp", c, Config{MaxConnections: many})
	if h.wires.pipes.limit != many/8 {
		t.Fatalf("%d pipes allowed, want %d", h.wires.pipes.limit, many/8)
	}
	defer close(stop)
	before := inUse()
	chunk := pattern(64 << 10)
	clients := make([]syscall.RawConn, many)
	for i := range clients {
		client := connect(t, h.addr)
		client.(*net.TCPConn).SetWriteBuffer(64 << 10)
		clients[i], _ = client.(syscall.Conn).SyscallConn()
	}
	eventually(t, "all pipes are in use and nothing moves", func() bool {
		moved := 0
		for _, raw := range clients {
			raw.Control(func(fd uintptr) {
				n, _ := unix.Write(int(fd), chunk)
				moved += max(n, 0)
			})
		}
		h.wires.pipes.mu.Lock()
		defer h.wires.pipes.mu.Unlock()
		return moved == 0 && h.wires.pipes.made == h.wires.pipes.limit
	})
	if grown := inUse() - before; grown > many*(bufferSize+24<<10) {
		t.Errorf("%d KiB for each of %d connections", grown>>10/many, many)
	}
}

// inUse returns how much memory the program uses.
func inUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// smallBuffers makes the connections of a listener take little at once.
func smallBuffers(t *testing.T, l net.Listener) {
	t.Helper()
	raw, err := l.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<10)
	})
}

// Clients who reset at once, by the hundred, are no trouble.
func TestResetRightAfterConnect(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	c.will(newLife(listen(t, "tcp"), echo))
	h := newHouse(t, "tcp", c, Config{})
	for range 500 {
		nc, err := net.Dial("tcp", h.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		reset(nc)
	}
	client := connect(t, h.addr)
	say(t, client, []byte("x"))
	hear(t, client, []byte("x"))
	eventually(t, "the others are forgotten", func() bool { return h.Connections() == 1 })
	if strings.Contains(h.logs.String(), "level=WARN") {
		t.Errorf("unexpected warning:\n%s", h.logs)
	}
}

// A client that was gone before it was accepted reaches no child, which would
// see a connection without a byte, and pay for it.
func TestResetBeforeAcceptReachesNoChild(t *testing.T) {
	leakFree(t)
	c := newChild(t)
	var reached atomic.Int64
	c.will(newLife(listen(t, "tcp"), func(nc net.Conn) {
		reached.Add(1)
		echo(nc)
	}))
	h := newHouse(t, "tcp", c, Config{MaxConnections: 1})
	first := connect(t, h.addr)
	say(t, first, []byte("x"))
	hear(t, first, []byte("x"))
	const gone = 20
	for range gone { // into the backlog: there is no room for a second one
		nc, err := net.Dial("tcp", h.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		reset(nc)
	}
	first.Close()
	last := connect(t, h.addr)
	say(t, last, []byte("y"))
	hear(t, last, []byte("y"))
	if n := reached.Load(); n != 2 {
		t.Errorf("%d connections reached the child, want those of the 2 clients that were there", n)
	}
	if s := h.Stats(); s.ClientLeft != gone {
		t.Errorf("%d clients were noted as gone, want %d: %+v", s.ClientLeft, gone, s)
	}
}
