package direct

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// patience bounds every wait for something that is sure to come.
const patience = 20 * time.Second

const envChild = "DIRECT_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(envChild) != "" {
		os.Exit(playChild(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// playChild listens on every address it is given, as "kind,address", and says
// "child" and the two ends to whoever connects. By stdin it is told to "close"
// a listener, to "accept" nobody any more, or, by its end, to end.
func playChild(args []string) int {
	var all []net.Listener
	for _, a := range args {
		kind, addr, _ := strings.Cut(a, ",")
		l, err := listenAs(kind, addr)
		if err != nil {
			fmt.Println("child:", err)
			return 1
		}
		all = append(all, l)
		fmt.Println(inodeOf(l), fdOf(l), l.Addr())
		if kind != "idle" && kind != "defer" {
			go answer(l, "child")
		}
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if n, ok := strings.CutPrefix(in.Text(), "close "); ok {
			i, _ := strconv.Atoi(n)
			all[i].Close()
			fmt.Println("closed")
		}
	}
	return 0
}

// listenAs listens in the ways that children do. "idle" never accepts.
func listenAs(kind, addr string) (net.Listener, error) {
	option := func(level, name, value int) func(string, string, syscall.RawConn) error {
		return func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), level, name, value) })
		}
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(kind == "mptcp")
	network := "tcp"
	switch kind {
	case "tcp4", "tcp6":
		network = kind
	case "share":
		lc.Control = option(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	case "mine": // without SO_REUSEADDR, which Go sets
		lc.Control = option(unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)
	case "device":
		lc.Control = option(unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, 1)
	case "defer":
		lc.Control = option(unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 30)
	}
	return lc.Listen(context.Background(), network, addr)
}

// answer says who it is to everybody, and waits until they have said all.
func answer(l net.Listener, who string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { //nolint:gocritic // in a test
			defer c.Close()
			fmt.Fprintln(c, who, c.LocalAddr(), c.RemoteAddr())
			_, _ = io.Copy(io.Discard, c)
		}()
	}
}

func onSocket[T any](l net.Listener, f func(fd int) T) (out T) {
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		panic(err)
	}
	if err := raw.Control(func(fd uintptr) { out = f(int(fd)) }); err != nil {
		panic(err)
	}
	return out
}

func fdOf(l net.Listener) int { return onSocket(l, func(fd int) int { return fd }) }

func inodeOf(l net.Listener) uint64 {
	return onSocket(l, func(fd int) uint64 {
		var st unix.Stat_t
		_ = unix.Fstat(fd, &st)
		return st.Ino
	})
}

// child is a process of this binary that plays one.
type child struct {
	t       *testing.T
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Scanner
	sockets []Socket
}

func startChild(t *testing.T, listens ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command("/proc/self/exe", listens...)}
	c.cmd.Env = append(os.Environ(), envChild+"=1", "GORACE=atexit_sleep_ms=0")
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	for c.out = bufio.NewScanner(out); c.out.Scan() && c.out.Text() != "ready"; {
		s, addr := Socket{PID: c.cmd.Process.Pid}, ""
		if _, err := fmt.Sscan(c.out.Text(), &s.Inode, &s.FD, &addr); err != nil {
			t.Fatalf("child says %q", c.out.Text())
		}
		s.Addr = netip.MustParseAddrPort(addr)
		c.sockets = append(c.sockets, s)
	}
	return c
}

func (c *child) find(context.Context) ([]Socket, error) { return c.sockets, nil }

// close has the child close a listener.
func (c *child) close(i int) {
	c.t.Helper()
	fmt.Fprintln(c.in, "close", i)
	if !c.out.Scan() || c.out.Text() != "closed" {
		c.t.Fatalf("child says %q", c.out.Text())
	}
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait() // killed, most often
}

// front is tiproxy's side: a listener that says "front", and a path.
type front struct {
	t    *testing.T
	l    net.Listener
	path *Path
	log  *lines

	mu       sync.Mutex
	held     int  // lives held now
	holds    int  // times that one was
	refuses  bool // nothing can be held any more
	carried  map[Pair]bool
	released chan struct{} // gets a value for each release
}

// newFront listens and opens a path, or skips the test.
func newFront(t *testing.T, kind, addr string) *front {
	t.Helper()
	l, err := listenAs(kind, addr)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{t: t, l: l, log: &lines{}, released: make(chan struct{}, 1000)}
	t.Cleanup(func() { l.Close() })
	f.path, err = Open(Config{
		Listener: l.(*net.TCPListener), Idle: 200 * time.Millisecond, Hold: f.hold, Carried: f.carries,
		Log: slog.New(slog.NewTextHandler(f.log, nil)),
	})
	if err != nil {
		cannot(t, err.Error())
	}
	t.Cleanup(f.path.Close)
	go answer(l, "front")
	return f
}

// cannot skips a test that this machine cannot run. CI can run them all.
func cannot(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal("cannot test: ", why)
	}
	t.Skip("NOT TESTED: ", why)
}

func (f *front) hold(uint64) (func(), bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuses {
		return nil, false
	}
	f.held++
	f.holds++
	return f.release, true
}

func (f *front) release() {
	f.mu.Lock()
	f.held--
	f.mu.Unlock()
	f.released <- struct{}{}
}

func (f *front) isHeld() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held == 1
}

func (f *front) carries() map[Pair]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.carried
}

func (f *front) port() int { return f.l.Addr().(*net.TCPAddr).Port }

// begin leads to a child and returns when that is so.
func (f *front) begin(gen uint64, c *child) {
	f.t.Helper()
	f.path.Begin(gen, c.find)
	f.eventually("clients are led", func() bool { return f.path.kernel.isOpen() })
}

// isOpen tells whether the gate is open.
func (k *kernel) isOpen() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	open := uint32(0)
	return k.maps.gate.Lookup(uint32(0), &open) == nil && open == 1 && k.shut == 0
}

func (f *front) eventually(what string, ok func() bool) {
	f.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("not within %v: %s; log: %s", patience, what, f.log)
		}
	}
}

// dial connects to the front's port on a host.
func (f *front) dial(host string) net.Conn {
	f.t.Helper()
	d := net.Dialer{Timeout: patience}
	d.SetMultipathTCP(false)
	c, err := d.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(f.port())))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	return c
}

// met reads who answers a client, and lets him stay.
func (f *front) met(c net.Conn) string {
	f.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		f.t.Fatal(err)
	}
	who, ends, _ := strings.Cut(strings.TrimSpace(line), " ")
	if want := fmt.Sprint(c.RemoteAddr(), " ", c.LocalAddr()); ends != want {
		f.t.Errorf("%s sees the ends %q, want %q", who, ends, want)
	}
	return who
}

// meets tells who answers a new client, who leaves at once.
func (f *front) meets(host string) string {
	f.t.Helper()
	c := f.dial(host)
	defer c.Close()
	return f.met(c)
}

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
