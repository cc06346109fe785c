package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tiproxy/internal/process"
)

// The test binary plays three parts: the tests, tiproxy itself (and with it
// the demo's server and the keeper), and the child.
const (
	roleVariable = "MAIN_TEST_ROLE"
	markVariable = "MAIN_TEST_MARK" // tells which test a process belongs to
)

func TestMain(m *testing.M) {
	if process.IsKeeper(os.Args) {
		os.Exit(process.KeeperMain(os.Args))
	}
	switch os.Getenv(roleVariable) {
	case "tiproxy":
		os.Exit(execute(os.Args[1:]))
	case "child":
		os.Exit(child(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// bound is how long a test waits for anything before it fails.
const bound = 30 * time.Second

// child is a server: child KIND NETWORK ADDR [WORD...].
func child(args []string) int {
	kind := args[0]
	switch kind {
	case "fails":
		fmt.Fprintln(os.Stderr, "first line\nno more luck")
		return 3
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
	default:
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		go exitOn(term)
	}
	switch kind {
	case "prints":
		out, _ := json.Marshal(map[string]any{"args": toHex(args[3:]), "env": os.Environ()})
		fmt.Printf("%s\n", out)
	case "floods":
		fmt.Fprint(os.Stderr, "a line without an end")
		os.Stdout.Write(bytes.Repeat([]byte("x"), 3<<20))
	}
	if args[1] == "unix" {
		_ = os.Remove(args[2]) // left by the life before
	}
	l, err := net.Listen(args[1], args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return 1
		}
		go echo(c)
	}
}

func exitOn(term <-chan os.Signal) {
	<-term
	os.Exit(0)
}

func echo(c net.Conn) {
	defer c.Close()
	_, _ = io.Copy(c, c)
}

func toHex(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = fmt.Sprintf("%x", w)
	}
	return out
}

var marks atomic.Int64

// proxyRun is one run of tiproxy.
type proxyRun struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout *sink
	stderr *sink
	ended  chan struct{}
}

// start runs tiproxy with args. Further variables may be given in env.
func start(t *testing.T, env []string, args ...string) *proxyRun {
	t.Helper()
	return startCmd(t, env, command(args...))
}

// command is tiproxy with args, not started.
func command(args ...string) *exec.Cmd { return exec.Command(self(), args...) }

func self() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
}

func startCmd(t *testing.T, env []string, cmd *exec.Cmd) *proxyRun {
	t.Helper()
	r := &proxyRun{t: t, cmd: cmd, stdout: newSink(), stderr: newSink(), ended: make(chan struct{})}
	mark := fmt.Sprintf("%s=%d.%d", markVariable, os.Getpid(), marks.Add(1))
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, envPrefix) })
	cmd.Env = append(append(cmd.Env, roleVariable+"=tiproxy", mark, "GORACE=atexit_sleep_ms=0"), env...)
	if cmd.Stdout == nil {
		cmd.Stdout = r.stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = r.stderr
	}
	// Whoever holds the pipes after tiproxy's end is found by the mark.
	cmd.WaitDelay = bound
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go r.reap()
	t.Cleanup(func() { r.finish(mark) })
	return r
}

func (r *proxyRun) reap() {
	_ = r.cmd.Wait() // the exit status is in ProcessState
	close(r.ended)
}

// finish ends tiproxy if the test has not, and looks for what it left.
func (r *proxyRun) finish(mark string) {
	select {
	case <-r.ended:
	default:
		r.signal(syscall.SIGTERM)
		r.signal(syscall.SIGTERM)
		r.exits(exitStopped)
	}
	var left []string
	if !poll(func() bool { left = withMark(mark); return len(left) == 0 }) {
		r.t.Errorf("still there after tiproxy's end: %v", left)
	}
	all := r.stderr.text()
	for _, bad := range []string{"DATA RACE", "goroutine ", "panic:"} {
		if strings.Contains(all, bad) {
			r.t.Errorf("stderr holds %q", bad)
		}
	}
	if r.t.Failed() {
		r.t.Logf("%q\nstdout: %.2000s\nstderr: %s", r.cmd.Args[1:], r.stdout.text(), all)
	}
}

// withMark lists the processes that bear the mark.
func withMark(mark string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range files {
		if env, err := os.ReadFile(f); err == nil && bytes.Contains(env, []byte(mark+"\x00")) {
			found = append(found, filepath.Dir(f))
		}
	}
	return found
}

func (r *proxyRun) signal(sig syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		r.t.Fatal(err)
	}
}

// exits waits for tiproxy's end and checks the status.
func (r *proxyRun) exits(status int) {
	r.t.Helper()
	select {
	case <-r.ended:
	case <-time.After(bound):
		_ = r.cmd.Process.Kill()
		<-r.ended
		r.t.Fatalf("no end within %v", bound)
	}
	if got := r.cmd.ProcessState.ExitCode(); got != status {
		r.t.Errorf("ended with %v, want exit status %d", r.cmd.ProcessState, status)
	}
}

// logged waits for the n-th line of the log with that message, from 1 on.
func (r *proxyRun) logged(msg string, n int) map[string]any {
	r.t.Helper()
	var found map[string]any
	if !poll(func() bool { found = r.find(msg, n); return found != nil }) {
		r.t.Fatalf("%q is not in the log %d times:\n%s", msg, n, r.stderr.text())
	}
	return found
}

func (r *proxyRun) find(msg string, n int) map[string]any {
	for line := range strings.Lines(r.stderr.text()) {
		var e map[string]any
		if json.Unmarshal([]byte(line), &e) == nil && e["msg"] == msg {
			if n--; n == 0 {
				return e
			}
		}
	}
	return nil
}

// said are the lines for people: without the log, which may hold warnings about
// processes that others have left on this machine.
func (r *proxyRun) said() []string {
	var said []string
	for line := range strings.Lines(r.stderr.text()) {
		if strings.HasPrefix(line, "tiproxy: ") {
			said = append(said, line)
		}
	}
	return said
}

// address is where tiproxy listens.
func (r *proxyRun) address() string {
	r.t.Helper()
	return r.logged(msgListening, 1)["bind"].(string)
}

// dial connects to tiproxy.
func (r *proxyRun) dial() net.Conn {
	r.t.Helper()
	network, addr := "tcp", r.address()
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	c, err := net.Dial(network, addr)
	must(r.t, err)
	r.t.Cleanup(func() { c.Close() })
	must(r.t, c.SetDeadline(time.Now().Add(bound)))
	return c
}

// says checks that what is written comes back.
func says(t *testing.T, c net.Conn, word string) {
	t.Helper()
	_, err := io.WriteString(c, word)
	must(t, err)
	got := make([]byte, len(word))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != word {
		t.Fatalf("%q came back as %q, %v", word, got, err)
	}
}

// serving is a command line with a child of that kind on a unix socket, which
// unlike a port belongs to this test alone.
func serving(t *testing.T, kind string, flags ...string) []string {
	t.Helper()
	dest := filepath.Join(shortDir(t), "child")
	line := append([]string{"--bind", "127.0.0.1:0", "--dest", "unix:" + dest, "--exec", self(), "--env", roleVariable + "=child"}, flags...)
	return append(line, "--", kind, "unix", dest)
}

// shortDir is a directory whose name leaves room for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tp") //nolint:usetesting // t.TempDir is too long for a socket
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

// sink collects what is written to it.
type sink struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func newSink() *sink { return &sink{} }

func (o *sink) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *sink) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// poll asks until ok is true, for a bounded time.
func poll(ok func() bool) bool {
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for end := time.Now().Add(bound); ; <-again.C {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
