//go:build linux

package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tiproxy/internal/pool"
	"tiproxy/internal/probe"
)

// The test binary is also every child, the keeper, and a small program with a
// host of its own: see TestMain.
const (
	asChild = "-as-child"
	asHost  = "-as-host"
	asStage = "-as-stage"
)

func init() { runtime.LockOSThread() } //nolint:gochecknoinits // childMain runs on the first thread

func TestMain(m *testing.M) {
	switch {
	case IsKeeper(os.Args):
		os.Exit(KeeperMain(os.Args))
	case IsActivator(os.Args):
		os.Exit(ActivatorMain(os.Args))
	case len(os.Args) > 2 && os.Args[1] == asChild:
		childMain(os.Args[2:])
		os.Exit(0)
	case len(os.Args) > 3 && os.Args[1] == asHost: // Args[3] marks the process as the test's
		os.Exit(hostMain(os.Args[2], os.Args[4:]))
	case len(os.Args) > 3 && os.Args[1] == asStage:
		stageMain(os.Args[2], os.Args[3:])
	}
	runtime.UnlockOSThread()
	os.Exit(m.Run())
}

// raceQuick spares every program built with -race a second at its end.
var raceQuick = []string{"GORACE=atexit_sleep_ms=0"}

// needRoot: users, capabilities and namespaces cannot be had otherwise.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		cannot(t, "only root can set this up")
	}
}

// cannot skips a test that this machine cannot run. CI can run them all.
func cannot(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal("cannot test: ", why)
	}
	t.Skip("NOT TESTED: ", why)
}

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

// eventually waits until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("did not happen within %v: %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// within fails the test unless c delivers in time.
func within[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("did not happen within %v: %s", patience, what)
	}
	return v
}

// sink is a writer to wait on.
type sink struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// await waits until what was written contains want.
func (s *sink) await(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(patience); !strings.Contains(s.String(), want); {
		if time.Now().After(end) {
			t.Fatalf("no %q in output:\n%s", want, s.String())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// numbers returns those of all lines "<name> <number>" so far.
func (s *sink) numbers(name string) (nums []int) {
	for line := range strings.Lines(s.String()) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok && strings.HasSuffix(rest, "\n") {
			if n, err := strconv.Atoi(strings.TrimSpace(rest)); err == nil {
				nums = append(nums, n)
			}
		}
	}
	return nums
}

// number waits for a line "<name> <number>" and returns the number.
func (s *sink) number(t *testing.T, name string) (n int) {
	t.Helper()
	eventually(t, "output "+name, func() bool {
		nums := s.numbers(name)
		if len(nums) > 0 {
			n = nums[0]
		}
		return len(nums) > 0
	})
	return n
}

// fakeProber is ready at once unless told otherwise.
type fakeProber struct {
	before error
	wait   func(context.Context, probe.Tree) (net.Addr, error)
}

func (f fakeProber) Before(context.Context) error { return f.before }

func (f fakeProber) Wait(ctx context.Context, tree probe.Tree) (net.Addr, error) {
	if f.wait == nil {
		return &net.TCPAddr{}, nil
	}
	return f.wait(ctx, tree)
}

// rig is a host with what a test needs around it. When the test ends, nothing
// may be left: see newRig.
type rig struct {
	t     *testing.T
	host  *Host
	token string // in the argv of every child of the test
	log   *sink
	out   *sink
	err   *sink
	gen   uint64
}

var tokens int

func newToken(t *testing.T) string {
	tokens++
	return fmt.Sprintf("-token=%d.%d.%s", os.Getpid(), tokens, filepath.Base(t.Name()))
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, token: newToken(t), log: &sink{}, out: &sink{}, err: &sink{}}
	before := openFDs()
	ignore := goleak.IgnoreCurrent()
	host, err := NewHost(Options{Log: slog.New(slog.NewTextHandler(r.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	r.host = host
	t.Cleanup(func() {
		eventually(t, "no process of the test is left", func() bool { return len(bearers(r.token)) == 0 })
		eventually(t, "no child, dead or alive, is left", func() bool { return len(childrenOf(os.Getpid())) == 0 })
		host.mu.Lock()
		if len(host.own) != 0 || len(host.trees) != 0 {
			t.Errorf("the host remembers %d processes and %d trees", len(host.own), len(host.trees))
		}
		host.mu.Unlock()
		host.Close()
		goleak.VerifyNone(t, ignore, goleak.IgnoreAnyFunction("os/signal.loop"))
		eventually(t, fmt.Sprintf("descriptors as before: %v, now %v", before, openFDs()),
			func() bool { return len(openFDs()) <= len(before) })
	})
	return r
}

// self is the command line of a child of ours.
func (r *rig) self(mode ...string) []string {
	return append([]string{os.Args[0], asChild, r.token}, mode...)
}

func (r *rig) command(args ...string) Command {
	path, err := filepath.Abs(args[0])
	if err != nil {
		r.t.Fatal(err)
	}
	return Command{
		Service: "test", Path: path, Args: args, Env: CleanEnv(os.Environ(), raceQuick),
		StopTimeout: patience, Stdout: r.out, Stderr: r.err,
	}
}

// start starts a command that must start. Unless the test stops it, that is
// done by force when the test ends.
func (r *rig) start(cmd Command) *life {
	r.t.Helper()
	return r.startWith(cmd, fakeProber{})
}

func (r *rig) startWith(cmd Command, p Prober) *life {
	r.t.Helper()
	r.gen++
	res := NewResource(r.host, cmd, p, slog.New(slog.NewTextHandler(r.log, nil)))
	l, err := res.Start(context.Background(), r.gen)
	if err != nil {
		r.t.Fatalf("start: %v", err)
	}
	r.t.Cleanup(func() { l.Stop(done()) })
	return l.(*life)
}

// run starts a mode of our own binary.
func (r *rig) run(mode ...string) *life {
	r.t.Helper()
	return r.start(r.command(r.self(mode...)...))
}

func (r *rig) exit(l *life) pool.Exit {
	r.t.Helper()
	return within(r.t, "the exit is told", l.Exited())
}

// stop stops politely and fails the test when that hangs.
func (r *rig) stop(l *life) {
	r.t.Helper()
	r.stopBy(l, context.Background())
}

func (r *rig) stopBy(l *life, ctx context.Context) {
	r.t.Helper()
	ended := make(chan struct{})
	go stopAndTell(l, ctx, ended)
	within(r.t, "Stop returns", ended)
}

func stopAndTell(l *life, ctx context.Context, ended chan<- struct{}) {
	l.Stop(ctx)
	close(ended)
}

func done() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// quiet fails the test when the host or a resource logged anything.
func (r *rig) quiet() {
	r.t.Helper()
	if s := r.log.String(); s != "" {
		r.t.Errorf("logged:\n%s", s)
	}
}

func openFDs() []string {
	names, _ := filepath.Glob("/proc/self/fd/*")
	var fds []string
	for _, n := range names {
		// The runtime's own poller and the directory just read are not ours.
		if dest, err := os.Readlink(n); err == nil && !strings.HasPrefix(dest, "anon_inode:") {
			fds = append(fds, n+"="+dest)
		}
	}
	return fds
}

// bearers returns the living processes with an argument token, besides us.
func bearers(token string) []int {
	var pids []int
	for _, p := range allProcs() {
		if !p.alive() || p.pid == os.Getpid() {
			continue
		}
		line, _ := readAll("/proc/" + strconv.Itoa(p.pid) + "/cmdline")
		if slices.Contains(strings.Split(string(line), "\x00"), token) {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

func isAlive(pid int) bool {
	p, ok := readProc(pid)
	return ok && p.alive()
}

func asExitError(t *testing.T, err error) *ExitError {
	t.Helper()
	var e *ExitError
	if !errors.As(err, &e) {
		t.Fatalf("error %v (%T) is no *ExitError", err, err)
	}
	return e
}

func sigOf(name string) syscall.Signal {
	n, err := strconv.Atoi(name)
	if err != nil {
		panic(err)
	}
	return syscall.Signal(n)
}
