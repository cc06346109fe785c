//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// setup says how to run a tiproxy. The zero value of a field is the default
// that its comment names.
type setup struct {
	space    *space   // the network to run in: the shared one
	bind     string   // --bind: a free port of 127.0.0.1
	dest     string   // --dest: left out
	flags    []string // further flags
	program  string   // --exec: left out
	args     []string // the child's, behind "--"
	line     []string // the whole command line, instead of all the above
	env      []string // added to this process's
	dir      string   // working directory: this one
	wrapper  []string // a command that runs tiproxy: none
	terminal bool     // all three standard streams are a terminal of its own
	path     string   // the binary: the one under test
	allow    []string // messages of warnings and errors that are part of the test
	status   int      // the exit status that is right: 0
}

// tiproxy is one that runs, or ran.
type tiproxy struct {
	t     *testing.T
	setup setup
	cmd   *exec.Cmd
	mark  string // in the environment of everything that it starts
	out   *stream
	log   *stream // stderr
	seen  map[process]bool

	keyboard *os.File // the other side of its terminal

	cursor int           // in log: behind the last event that was expected
	done   chan struct{} // closed when it has ended
	killed bool          // by the test, so that no exit status is right
}

// run starts a tiproxy, waits until it listens and sees to its end.
func run(t *testing.T, s setup) *tiproxy {
	t.Helper()
	p := launch(t, s)
	p.expect("listening")
	return p
}

// launch starts a tiproxy and sees to its end.
func launch(t *testing.T, s setup) *tiproxy {
	t.Helper()
	if s.space == nil {
		s.space = host()
	}
	p := &tiproxy{
		t: t, setup: s,
		mark: fmt.Sprintf("E2E_MARK=%d.%d", os.Getpid(), rand.Uint64()),
		out:  newStream(), log: newStream(),
		seen: map[process]bool{}, done: make(chan struct{}),
	}
	line := append(slices.Clone(s.wrapper), s.commandLine()...)
	p.cmd = exec.Command(line[0], line[1:]...)
	p.cmd.Dir = s.dir
	// The race detector would hold up every end for a second (atexit_sleep_ms).
	p.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "TIPROXY_LOG_FORMAT=json", p.mark)
	p.cmd.Env = append(p.cmd.Env, "TIPROXY_ADMIN=off") // the usual place is there once
	p.cmd.Env = append(p.cmd.Env, s.env...)
	if s.terminal {
		p.onTerminal()
	} else {
		p.onPipes()
	}
	t.Cleanup(p.finish)
	go p.reap()
	return p
}

func (s setup) commandLine() []string {
	if s.line != nil {
		return s.line
	}
	line := []string{binary}
	if s.path != "" {
		line[0] = s.path
	}
	bind := s.bind
	if bind == "" {
		bind = "127.0.0.1:0"
	}
	line = append(line, "--bind", bind)
	if s.dest != "" {
		line = append(line, "--dest", s.dest)
	}
	if s.program != "" {
		line = append(line, "--exec", s.program)
	}
	line = append(line, s.flags...)
	if s.mayBeDirect() {
		line = append(line, "--path", "direct")
	}
	if len(s.args) > 0 {
		line = append(append(line, "--"), s.args...)
	}
	return line
}

func (p *tiproxy) onPipes() {
	outRead, outWrite := pipe(p.t)
	errRead, errWrite := pipe(p.t)
	p.cmd.Stdout, p.cmd.Stderr = outWrite, errWrite
	err := p.setup.space.start(p.cmd)
	outWrite.Close()
	errWrite.Close()
	go p.out.feed(outRead)
	go p.log.feed(errRead)
	if err != nil {
		p.t.Fatalf("start %v: %v", p.cmd.Args, err)
	}
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatalf("pipe: %v", err)
	}
	return r, w
}

func (p *tiproxy) reap() {
	_ = wait(p.cmd) // how it ended is in ProcessState
	close(p.done)
}

// pid is tiproxy's own, also behind a wrapper that forks.
func (p *tiproxy) pid() int {
	if p.runsTiproxy(p.cmd.Process.Pid) {
		return p.cmd.Process.Pid
	}
	for _, d := range descendants(p.cmd.Process.Pid) {
		if p.runsTiproxy(d.pid) {
			return d.pid
		}
	}
	return p.cmd.Process.Pid
}

func (p *tiproxy) runsTiproxy(pid int) bool {
	path := process{pid: pid}.exe()
	return path == binary || path != "" && path == p.setup.path
}

// expect waits for the next line of the log that says msg, however many other
// lines come first.
func (p *tiproxy) expect(msg string) event {
	p.t.Helper()
	e, behind, ok := p.log.next(p.cursor, msg, bound)
	if !ok {
		p.t.Fatalf("tiproxy did not log %q within %v, or ended first", msg, bound)
	}
	p.cursor = behind
	p.look()
	return e
}

// says waits until text has come out on stderr, where what the child says is too.
func (p *tiproxy) says(text string) {
	p.t.Helper()
	if !p.log.until(bound, func() bool { return strings.Contains(p.log.text(), text) }) {
		p.t.Fatalf("stderr does not say %q", text)
	}
}

// address is where it listens, as "listening" said.
func (p *tiproxy) address() string {
	p.t.Helper()
	e, _, ok := p.log.next(0, "listening", bound)
	if !ok {
		p.t.Fatal("tiproxy does not listen")
	}
	return e.text("bind")
}

func (p *tiproxy) port() string {
	p.t.Helper()
	_, port, err := net.SplitHostPort(p.address())
	if err != nil {
		p.t.Fatalf("listening on %q: %v", p.address(), err)
	}
	return port
}

// tree is what runs below tiproxy now, without processes of its own binary.
// All of them are remembered, to be looked for in the end.
func (p *tiproxy) tree() []process {
	p.look()
	return slices.DeleteFunc(descendants(p.pid()), func(d process) bool {
		return d.state != 'Z' && p.runsTiproxy(d.pid)
	})
}

func (p *tiproxy) look() {
	for _, d := range descendants(p.cmd.Process.Pid) {
		d.state, d.ppid = 0, 0 // they change; the key must not
		d.comm, d.pgid = "", 0
		p.seen[d] = true
	}
}

// running are the processes of its tree that run program.
func (p *tiproxy) running(program string) []process {
	return slices.DeleteFunc(p.tree(), func(d process) bool {
		return filepath.Base(d.exe()) != program
	})
}

func (p *tiproxy) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := syscall.Kill(p.pid(), sig); err != nil {
		p.t.Fatalf("send %v to tiproxy: %v", sig, err)
	}
}

// kill ends tiproxy without giving it a chance to tidy up.
func (p *tiproxy) kill() {
	p.t.Helper()
	p.look()
	p.killed = true
	p.signal(syscall.SIGKILL)
	p.ends(bound)
}

// ends waits for tiproxy's end.
func (p *tiproxy) ends(limit time.Duration) {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		p.t.Fatalf("tiproxy still runs after %v", limit)
	}
}

// asleep checks that not one process is left, dead or alive.
func (p *tiproxy) asleep() {
	p.t.Helper()
	eventually(p.t, "nothing runs below tiproxy", func() error {
		if left := descendants(p.pid()); len(left) > 0 {
			return fmt.Errorf("still there: %v", left)
		}
		return nil
	})
}

// finish ends tiproxy as a service manager would and checks what it leaves.
func (p *tiproxy) finish() {
	t := p.t
	p.look()
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(p.pid(), syscall.SIGTERM)
	}
	select {
	case <-p.done:
	case <-time.After(bound):
		t.Errorf("tiproxy did not end within %v of SIGTERM", bound)
		_ = syscall.Kill(p.pid(), syscall.SIGKILL)
		<-p.done
	}
	if code := p.cmd.ProcessState.ExitCode(); !p.killed && code != p.setup.status {
		t.Errorf("tiproxy ended with %v, want exit status %d", p.cmd.ProcessState, p.setup.status)
	}
	p.leavesNothing()
	p.loggedNothingWorse()
	if t.Failed() {
		t.Logf("%v: stdout:\n%s\nstderr:\n%s", p.cmd.Args, tail(p.out.text()), tail(p.log.text()))
	}
}

// leavesNothing looks for what outlived tiproxy: by the mark that everything
// it started has inherited, and by pid for those that overwrote their
// environment.
func (p *tiproxy) leavesNothing() {
	err := poll(bound/3, func() error {
		unknownChildren() // reap
		var left []process
		for _, q := range allProcesses() {
			if q.hasEnv(p.mark) || p.seen[process{pid: q.pid, started: q.started}] {
				left = append(left, q)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("tiproxy left %v", left)
		}
		return nil
	})
	if err != nil {
		p.t.Error(err)
	}
	if !p.log.untilEnd(bound/3) || !p.out.untilEnd(bound/3) {
		p.t.Error("somebody still holds tiproxy's stdout or stderr after its end")
	}
}

// escapedMessage names a process that outlived the tiproxy that started it,
// whoever's that was.
const escapedMessage = "a process of an earlier tiproxy still lives"

// loggedNothingWorse fails the test for every warning and error that it did
// not allow, and for what the runtime and the race detector print.
func (p *tiproxy) loggedNothingWorse() {
	for _, e := range p.log.all() {
		// Other packages' tests kill proxies at the same time, and this one may see it.
		allowed := e.msg == escapedMessage || slices.Contains(p.setup.allow, e.msg)
		if (e.level == "WARN" || e.level == "ERROR") && !allowed {
			p.t.Errorf("unexpected line in the log: %s", e.line)
		}
	}
	for _, bad := range []string{"WARNING: DATA RACE", "panic:", "fatal error:", "runtime error"} {
		if strings.Contains(p.log.text(), bad) {
			p.t.Errorf("tiproxy's stderr holds %q", bad)
		}
	}
}

func tail(text string) string {
	const most = 12000
	if len(text) > most {
		return "…" + text[len(text)-most:]
	}
	return text
}

// eventually waits for something that only asking can tell.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	if err := poll(bound, check); err != nil {
		t.Fatalf("not within %v: %s: %v", bound, what, err)
	}
}

func poll(limit time.Duration, check func() error) error {
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for end := time.Now().Add(limit); ; <-again.C {
		err := check()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

var ports sync.Map

// freePort finds a port for a child. It lies below the range from which the
// kernel takes local ports, so no outgoing connection can take it meanwhile,
// and is given to one test only.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := 10000 + rand.IntN(20000)
		if _, taken := ports.LoadOrStore(port, true); taken {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatalf("look for a free port: %v", err)
		}
		l.Close()
		return strconv.Itoa(port)
	}
	t.Fatal("no free port")
	return ""
}

// sharedDir is a directory that ends with the test and that users other than
// root can reach, with a name short enough for sockets.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-") //nolint:usetesting // t.TempDir is closed to other users and its name too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// refuses waits until tiproxy's listener is closed.
func (p *tiproxy) refuses() {
	p.t.Helper()
	eventually(p.t, "new clients are refused", func() error {
		c, err := tryDial(p.setup.space, p.address())
		if err == nil {
			c.Close()
			return errors.New("tiproxy still takes connections")
		}
		return nil
	})
}
