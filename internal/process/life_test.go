//go:build linux

package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tiproxy/internal/probe"
)

func TestExitIsTold(t *testing.T) {
	tests := []struct {
		name   string
		mode   []string
		status string
		isErr  bool
	}{
		{"zero", []string{"exit", "0"}, "exit status 0", false},
		{"three", []string{"exit", "3"}, "exit status 3", true},
		{"255", []string{"exit", "255"}, "exit status 255", true},
		{"terminated", []string{"die", "15"}, "signal: terminated", true},
		{"killed", []string{"die", "9"}, "signal: killed", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			l := r.run(tt.mode...)
			e := r.exit(l)
			if e.Status != tt.status || (e.Err != nil) != tt.isErr || e.Left {
				t.Errorf("exit = %+v", e)
			}
			if isAlive(l.Pid()) {
				t.Error("the child lives")
			}
			if _, ok := readProc(l.Pid()); ok {
				t.Error("the child is not reaped though nothing is left")
			}
			r.stop(l)
			r.quiet()
		})
	}
}

func TestExitFromOpened(t *testing.T) {
	r := newRig(t)
	l := r.run("wait")
	r.out.number(t, "pid")
	select {
	case e := <-l.Exited():
		t.Fatalf("exit told of a living child: %+v", e)
	default:
	}
	_ = syscall.Kill(l.Pid(), syscall.SIGKILL)
	e := r.exit(l)
	if e.Status != "signal: killed" {
		t.Errorf("status %q", e.Status)
	}
	if hint := asExitError(t, e.Err).Hint; !strings.Contains(hint, "memory") {
		t.Errorf("hint %q does not speak of memory", hint)
	}
}

func TestLastLines(t *testing.T) {
	r := newRig(t)
	var lines []string
	for i := range 30 {
		lines = append(lines, fmt.Sprintf("line %d", i))
	}
	l := r.run("say", strings.Join(lines, "\n")+"\n", "bind: Address already in use\x1b[0m", "1")
	e := asExitError(t, r.exit(l).Err)
	if n := len(e.LastLines); n != tailLines {
		t.Fatalf("%d last lines: %q", n, e.LastLines)
	}
	if got := e.LastLines[tailLines-1]; got != "bind: Address already in use[0m" {
		t.Errorf("last line %q", got)
	}
	if got := e.LastLines[tailLines-2]; got != "line 29" {
		t.Errorf("line before the last %q", got)
	}
	if !strings.Contains(e.Hint, "another process holds the port") {
		t.Errorf("hint %q", e.Hint)
	}
}

func TestOutputIsByteExact(t *testing.T) {
	r := newRig(t)
	blob := make([]byte, 3<<20)
	for i := range blob {
		blob[i] = byte(i * 7 / 3)
	}
	file := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(file, blob, 0o600); err != nil {
		t.Fatal(err)
	}
	r.exit(r.start(r.command("/bin/cat", file)))
	if r.out.String() != string(blob) {
		t.Errorf("%d bytes arrived, want %d, or they differ", len(r.out.String()), len(blob))
	}
}

// A grandchild that keeps stdout open delays nothing, and everything that was
// written before the end is there when the end is told.
func TestExitIsToldThoughOutputIsHeld(t *testing.T) {
	r := newRig(t)
	l := r.run("leave", "setsid", "3", "wait", "holder")
	<-l.dead
	start := time.Now()
	e := r.exit(l)
	if took := time.Since(start); took > 100*time.Millisecond && !loaded() {
		t.Errorf("told after %v", took)
	}
	if e.Status != "exit status 3" || !e.Left {
		t.Errorf("exit = %+v", e)
	}
	if !strings.Contains(r.out.String(), "grandchild ") {
		t.Errorf("what the child wrote last is not there: %q", r.out.String())
	}
	holder := r.out.number(t, "holder")
	r.stop(l)
	if isAlive(holder) {
		t.Error("the holder survived Stop")
	}
}

// The end is told only after what was written before was asked for.
func TestOutputIsAskedForBeforeTheExitIsTold(t *testing.T) {
	r := newRig(t)
	slow := &slowSink{sink: r.out, open: make(chan struct{}), entered: make(chan struct{})}
	gate := filepath.Join(t.TempDir(), "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := r.command(append([]string{"/bin/sh", "-c", `echo words; read go <` + gate + `; "$@" & exit 3`, "sh"}, r.self("wait", "holder")...)...)
	cmd.Stdout = slow
	l := r.start(cmd)
	within(t, "the words are carried", slow.entered) // or they would be found by the look itself
	if err := os.WriteFile(gate, []byte("on\n"), 0); err != nil {
		t.Fatal(err)
	}
	<-l.told
	l.out[0].mu.Lock()
	asked := len(l.out[0].drains) > 0 // and not served, because the writer blocks
	l.out[0].mu.Unlock()
	if !asked {
		t.Error("the exit was told without a look at the output")
	}
	close(slow.open)
	r.stop(l)
	r.out.await(t, "words")
}

// A copier carries all that is in the pipe before it says so, whoever keeps
// the pipe open.
func TestCopierSettles(t *testing.T) {
	out, w, err := outputPipe()
	if err != nil {
		t.Fatal(err)
	}
	carried := &sink{}
	c := newCopier(out, carried, &tail{}, 0)
	if _, err := unix.Write(w, bytes.Repeat([]byte("x"), 60000)); err != nil {
		t.Fatal(err)
	}
	settled := c.settle() // before run, so that nothing is carried without it
	go c.run()
	within(t, "the copier settles", settled)
	if n := len(carried.String()); n != 60000 {
		t.Errorf("%d bytes were carried", n)
	}
	c.end()
	within(t, "the copier ends though the pipe does not", c.done)
	unix.Close(w)
}

// slowSink takes nothing before it is opened.
type slowSink struct {
	*sink
	open    chan struct{}
	entered chan struct{} // closed by the first write
	once    sync.Once
}

func (s *slowSink) Write(p []byte) (int, error) {
	s.once.Do(func() { close(s.entered) })
	<-s.open
	return s.sink.Write(p)
}

// loaded: other work on the machine makes a bound on time meaningless.
func loaded() bool {
	var load float64
	data, _ := os.ReadFile("/proc/loadavg")
	_, _ = fmt.Sscan(string(data), &load)
	return load > 4
}

func TestStartErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path, dir string
		errno           syscall.Errno
		want            string
	}{
		{"missing", filepath.Join(dir, "none"), "", syscall.ENOENT, "no such program"},
		{"not executable", write("plain", "#!/bin/sh\n", 0o600), "", syscall.EACCES, "chmod +x"},
		{"directory", dir, "", syscall.EACCES, "is a directory"},
		{"no format", write("text", "hello\n", 0o700), "", syscall.ENOEXEC, "#!/bin/sh"},
		{"interpreter", write("script", "#!/no/such/sh -e\n", 0o700), "", syscall.ENOENT, "/no/such/sh"},
		{"loop", loop, "", syscall.ELOOP, "symbolic"},
		{"workdir missing", "/bin/true", filepath.Join(dir, "gone"), syscall.ENOENT, "working directory: stat " + filepath.Join(dir, "gone")},
		{"workdir a file", "/bin/true", "/bin/true", syscall.ENOTDIR, "working directory: chdir /bin/true"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			cmd := r.command(tt.path)
			cmd.Path, cmd.Dir = tt.path, tt.dir
			_, err := NewResource(r.host, cmd, fakeProber{}, nil).Start(t.Context(), 1)
			if !errors.Is(err, tt.errno) || !strings.Contains(fmt.Sprint(err), tt.want) || !strings.Contains(fmt.Sprint(err), tt.path) {
				t.Errorf("error %v, want %v with %q", err, tt.errno, tt.want)
			}
		})
	}
}

func TestProberRefusesStart(t *testing.T) {
	r := newRig(t)
	want := errors.New("a stranger")
	file := filepath.Join(t.TempDir(), "touched")
	cmd := r.command("/bin/touch", file)
	if _, err := NewResource(r.host, cmd, fakeProber{before: want}, nil).Start(t.Context(), 1); err != want {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the child was started")
	}
}

func TestStartAfterClose(t *testing.T) {
	r := newRig(t)
	r.host.Close()
	_, err := NewResource(r.host, r.command("/bin/true"), fakeProber{}, nil).Start(t.Context(), 1)
	if !errors.Is(err, ErrHostClosed) {
		t.Errorf("error %v", err)
	}
}

func TestOneHostAtATime(t *testing.T) {
	newRig(t)
	if h, err := NewHost(Options{}); err == nil {
		h.Close()
		t.Error("a second host came into being")
	}
}

func TestReadyEndsWithTheChild(t *testing.T) {
	r := newRig(t)
	var tree probe.Tree
	asked := make(chan struct{})
	p := fakeProber{wait: func(ctx context.Context, tr probe.Tree) (net.Addr, error) {
		tree = tr
		close(asked)
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}}
	l := r.startWith(r.command(r.self("wait")...), p)
	r.out.number(t, "pid")
	result := make(chan error, 1)
	go askReady(l, result)
	within(t, "the prober is asked", asked)
	if pids := tree.Pids(); len(pids) != 1 || pids[0] != l.Pid() {
		t.Errorf("pids %v, child %d", pids, l.Pid())
	}
	_ = syscall.Kill(l.Pid(), syscall.SIGTERM)
	if e := asExitError(t, within(t, "Ready returns", result)); e.Status != "signal: terminated" {
		t.Errorf("status %q", e.Status)
	}
	// A prober that says yes does not bring it back.
	l.res.prober = fakeProber{}
	if _, err := l.Ready(t.Context()); err == nil {
		t.Error("a dead life is ready")
	}
}

func askReady(l *life, result chan<- error) {
	_, err := l.Ready(context.Background())
	result <- err
}

func TestReadyObeysItsContext(t *testing.T) {
	r := newRig(t)
	p := fakeProber{wait: func(ctx context.Context, _ probe.Tree) (net.Addr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	l := r.startWith(r.command(r.self("wait")...), p)
	if _, err := l.Ready(done()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// A program that ends with status 0 and leaves processes behind has failed only
// if these still take connections: then it has put itself into the background.
func TestStartErrorOfABackgroundProgram(t *testing.T) {
	never := func(ctx context.Context, _ probe.Tree) (net.Addr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for name, listens := range map[string]bool{"listens": true, "does something else": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			p := fakeProber{}
			if !listens {
				p.wait = never
			}
			l := r.startWith(r.command(r.self("leave", "daemon", "0", "wait", "daemon")...), p)
			e := r.exit(l)
			if (e.Err != nil) != listens || !e.Left {
				t.Fatalf("exit = %+v", e)
			}
			err := asExitError(t, e.StartErr)
			if !strings.Contains(err.Hint, "put itself into the background") || err.Status != "exit status 0" {
				t.Errorf("start error %v", err)
			}
			daemon := r.out.number(t, "daemon")
			r.stop(l)
			if isAlive(daemon) {
				t.Error("the daemon survived Stop")
			}
			r.quiet()
		})
	}
}

func TestPidsFindsTheWholeTree(t *testing.T) {
	for _, how := range []string{"group", "setsid", "daemon", "bare-daemon"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t)
			l := r.run("parent", how, "wait", "deep")
			deep := r.out.number(t, "deep")
			eventually(t, "Pids has "+strconv.Itoa(deep), func() bool {
				for _, pid := range l.tree.Pids() {
					if pid == deep {
						return true
					}
				}
				return false
			})
			if pids := l.tree.Pids(); pids[0] != l.Pid() {
				t.Errorf("pids %v do not begin with the child %d", pids, l.Pid())
			}
		})
	}
}
