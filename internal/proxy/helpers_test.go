package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tiproxy/internal/pool"
)

// patient bounds every wait of a test for something that is sure to happen.
const patient = 20 * time.Second

// TestMain makes the runtime open its poller's descriptors, which stay.
func TestMain(m *testing.M) {
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
	}
	os.Exit(m.Run())
}

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patient)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			buf := make([]byte, 1<<20)
			t.Fatalf("did not happen within %v: %s\n%s", patient, what, buf[:runtime.Stack(buf, true)])
		case <-tick.C:
		}
	}
}

// receive waits for a value.
func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patient):
		buf := make([]byte, 1<<20)
		t.Fatalf("did not happen within %v: %s\n%s", patient, what, buf[:runtime.Stack(buf, true)])
		panic("unreachable")
	}
}

// leakFree fails the test if it leaves a goroutine or a descriptor behind.
func leakFree(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	fds := openFiles(t)
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		if err := goleak.Find(before); err != nil {
			t.Error(err)
		}
		// Garbage collection closes nothing of ours, so this need not wait for it.
		eventually(t, "every descriptor of the test is closed", func() bool { return openFiles(t) <= fds })
	})
}

// openFiles counts this process's descriptors, or returns 0 where that cannot
// be read.
func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil && runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	return len(list)
}

// listen returns a listener on loopback, or on a socket in a directory of the
// test's own.
func listen(t *testing.T, network string) net.Listener {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "proxy") //nolint:usetesting // t.TempDir is too long for a socket
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		addr = filepath.Join(dir, "s")
	}
	lc := net.ListenConfig{}
	if network == "tcp" {
		lc = ListenConfig()
	}
	l, err := lc.Listen(context.Background(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// peer is one end of a connection in the hands of a test.
type peer interface {
	net.Conn
	CloseWrite() error
}

// connect dials a listener's address.
func connect(t *testing.T, addr net.Addr) peer {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(peer)
}

// pair returns the two ends of a fresh connection.
func pair(t *testing.T, network string) (dialed, accepted peer) {
	t.Helper()
	l := listen(t, network)
	defer l.Close()
	dialed = connect(t, l.Addr())
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return dialed, a.(peer)
}

// pattern returns n bytes in which every position is told from its neighbours.
func pattern(n int) []byte {
	b := make([]byte, n)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

// say writes b and waits until the socket has taken all of it.
func say(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	c.SetWriteDeadline(time.Now().Add(patient))
	if _, err := c.Write(b); err != nil {
		t.Fatalf("write of %d bytes: %v", len(b), err)
	}
}

// hear reads len(want) bytes and compares.
func hear(t *testing.T, c net.Conn, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	c.SetReadDeadline(time.Now().Add(patient))
	if n, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("after %d of %d bytes: %v", n, len(want), err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("read other bytes than were sent (%d of them)", len(want))
	}
}

// hearEnd reads the end of the stream.
func hearEnd(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patient))
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("read %d bytes and %v, want the end", n, err)
	}
}

// isReset reports whether err says that the peer has reset the connection.
func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

// hearReset reads a reset.
func hearReset(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patient))
	if n, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Fatalf("read %d bytes and %v, want a reset", n, err)
	}
}

// sum reads to the end and returns how much it was and its hash.
func sum(c net.Conn) (n int64, hash [sha256.Size]byte, err error) {
	h := sha256.New()
	c.SetReadDeadline(time.Now().Add(3 * patient))
	n, err = io.Copy(h, c)
	h.Sum(hash[:0])
	return n, hash, err
}

// logLines collects what a logger says.
type logLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logLines) count(s string) int { return bytes.Count([]byte(l.String()), []byte(s)) }

func (l *logLines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// child is a resource made of goroutines of the test. Every start takes the
// next of its lives, which the test has prepared.
type child struct {
	t     *testing.T
	lives chan *life
}

func newChild(t *testing.T) *child { return &child{t: t, lives: make(chan *life, 16)} }

// will prepares the next life.
func (c *child) will(l *life) *life {
	c.lives <- l
	return l
}

func (c *child) Start(context.Context, uint64) (pool.Life, error) {
	select {
	case l := <-c.lives:
		if l.fail != nil {
			return nil, l.fail
		}
		if l.serve != nil {
			go l.accept()
		}
		return l, nil
	default:
		return nil, errors.New("the test has prepared no further life")
	}
}

// life is one life of a child. The zero values of its gates are shut.
type life struct {
	addr   net.Addr
	ln     net.Listener
	serve  func(net.Conn) // nil: the test accepts by itself
	fail   error          // of the start
	first  chan struct{}  // closed: ready for the first time
	again  chan struct{}  // closed: ready again, for those who ask once more
	exited chan pool.Exit
	asked  chan struct{} // one value per question after the first

	mu      sync.Mutex
	opened  bool
	stopped sync.Once
	stop    chan struct{}
}

// newLife returns a life that is ready at once, takes connections on ln and
// serves them with serve.
func newLife(ln net.Listener, serve func(net.Conn)) *life {
	l := &life{
		addr: ln.Addr(), ln: ln, serve: serve,
		first: make(chan struct{}), again: make(chan struct{}),
		exited: make(chan pool.Exit, 1), asked: make(chan struct{}, 1024),
		stop: make(chan struct{}),
	}
	close(l.first)
	close(l.again)
	return l
}

// booting makes the life ready only when the returned function is called.
func (l *life) booting() (ready func()) {
	l.first = make(chan struct{})
	return func() { close(l.first) }
}

// busy makes the life refuse, and ready again when the returned function is
// called.
func (l *life) busy() (ready func()) {
	again := make(chan struct{})
	l.mu.Lock()
	l.again = again
	l.mu.Unlock()
	return func() { close(again) }
}

func (l *life) accept() {
	for {
		c, err := l.ln.Accept()
		switch {
		case err == nil:
			go l.serve(c)
		case !scarce(err):
			return
		default: // the child of a test shares the limit that it is about
			select {
			case <-l.stop:
				return
			case <-time.After(acceptPauseMin):
			}
		}
	}
}

func (l *life) Ready(ctx context.Context) (net.Addr, error) {
	l.mu.Lock()
	gate := l.first
	if l.opened {
		gate = l.again
		l.asked <- struct{}{}
	}
	l.mu.Unlock()
	select {
	case <-gate:
		l.mu.Lock()
		l.opened = true
		l.mu.Unlock()
		return l.addr, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.stop:
		return nil, errors.New("stopped")
	}
}

func (l *life) Exited() <-chan pool.Exit { return l.exited }

func (l *life) Stop(context.Context) { l.exit(pool.Exit{Status: "stopped"}) }

// exit ends the life.
func (l *life) exit(how pool.Exit) {
	l.stopped.Do(func() {
		close(l.stop)
		if l.ln != nil {
			l.ln.Close()
		}
		l.exited <- how
	})
}

// house is a server with its pool and a listener.
type house struct {
	*Server
	pool   *pool.Pool
	child  *child
	logs   *logLines
	addr   net.Addr
	served chan error
}

// newHouse serves a pool of c's lives.
func newHouse(t *testing.T, network string, c *child, cfg Config) *house {
	t.Helper()
	return newHouseOf(t, network, c, cfg, pool.Config{})
}

// newHouseOf is newHouse with a pool of that kind.
func newHouseOf(t *testing.T, network string, c *child, cfg Config, of pool.Config) *house {
	t.Helper()
	h := &house{child: c, logs: new(logLines), served: make(chan error, 1)}
	cfg.Log = h.logs.logger()
	h.pool = pool.New(c, of)
	h.Server = New(h.pool, cfg)
	l := listen(t, network)
	h.addr = l.Addr()
	go h.serve(l)
	t.Cleanup(func() { h.close(t) })
	return h
}

func (h *house) serve(l net.Listener) { h.served <- h.Serve(l) }

// close ends everything and checks the books.
func (h *house) close(t *testing.T) {
	h.Reset()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	if err := h.Wait(ctx); err != nil {
		buf := make([]byte, 1<<20)
		t.Errorf("after Reset: %v\n%s", err, buf[:runtime.Stack(buf, true)])
	}
	if err := <-h.served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if n := h.pool.Snapshot().Connections; n != 0 {
		t.Errorf("%d leases were not given back", n)
	}
	gone, stop := context.WithCancel(context.Background())
	stop()
	h.pool.Shutdown(gone)
	s := h.Stats()
	if ended := s.Closed + s.ClientReset + s.UpstreamReset + s.Killed + s.ClientLeft + s.Refused + s.StartFailed + s.Drained + s.TurnedAway + s.Quiet; ended != s.Accepted {
		t.Errorf("%d connections accepted, %d ended: %+v", s.Accepted, ended, s)
	}
}

// echo sends back what it gets, and its end, without splice and its pipes.
func echo(c net.Conn) {
	defer c.Close()
	io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
}
