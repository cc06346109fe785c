//go:build linux

package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// errOver is why the waits of some tests end, brieflyTime when.
var errOver = errors.New("the test is over")

const brieflyTime = 200 * time.Millisecond

// briefly is a context for what must not happen.
func briefly(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), brieflyTime, errOver)
	t.Cleanup(cancel)
	return ctx
}

// fifo makes a pipe with a name, which ends with the test.
func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// openFifo lets a shell go on that reads from the fifo that its script names.
func openFifo(t *testing.T, cmd Command) {
	t.Helper()
	script := cmd.Args[len(cmd.Args)-1]
	path, _, _ := strings.Cut(script[strings.Index(script, "<")+1:], ";")
	if err := os.WriteFile(path, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
}

// checking adds a check to the command of a child.
func (r *rig) checking(cmd Command, args ...string) Command {
	cmd.Gates.Commands = append(cmd.Gates.Commands, Check{Name: "check", Path: r.command(args...).Path, Args: args})
	return cmd
}

// sh is a check by a shell.
func (r *rig) sh(cmd Command, script string) Command {
	return r.checking(cmd, "/bin/sh", "-c", script)
}

// child is the command of a child that does nothing.
func (r *rig) child() Command { return r.command(r.self("wait")...) }

// limitChecks makes the time of each run of a life's checks so long.
func limitChecks(l *life, d time.Duration) {
	for _, g := range l.gates.left {
		if c, ok := g.(*checkGate); ok {
			c.limit = d
		}
	}
}

func TestCheck_SaysHowItEnded(t *testing.T) {
	for name, tt := range map[string]struct{ script, want string }{
		"status":   {"exit 2", `exec:check ended with exit status 2`},
		"words":    {"echo first; echo second; echo no response >&2; exit 2", `exec:check ended with exit status 2: "no response"`},
		"signal":   {"kill -KILL $$", "exec:check ended with signal: killed"},
		"hangs":    {"echo asking; exec sleep 1000", `exec:check did not end within 2s: "asking"`},
		"no luck":  {"exec /no/such/program 2>/dev/null", "exec:check ended with exit status 127"},
		"no check": {"", "exec:check: start /no/such/program: no such file or directory (hint: there is no such program)"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			cmd := r.sh(r.child(), tt.script)
			if tt.script == "" {
				cmd.Gates.Commands[0].Path = "/no/such/program"
			}
			l := r.start(cmd)
			limitChecks(l, patience)
			if name == "hangs" {
				limitChecks(l, 2*time.Second)
			}
			if err := l.gates.left[0].(*checkGate).attempt(t.Context()); err == nil || err.Error() != tt.want {
				t.Errorf("attempt = %v, want %s", err, tt.want)
			}
			r.stop(l)
			r.quiet()
			if said := r.out.String() + r.err.String(); strings.Contains(said, "asking") || strings.Contains(said, "first") {
				t.Errorf("the check's output is printed: %q", said)
			}
		})
	}
}

func TestCheck_TimeoutSaysWhatItSaidLast(t *testing.T) {
	r := newRig(t)
	l := r.start(r.child())
	asked := 0
	l.gates = newGates([]gate{&checkGate{check: Check{Name: "x"}, limit: time.Minute, run: func(ctx context.Context, _ Check) (checked, error) {
		if asked++; asked < 3 {
			return checked{how: ending{code: asked}}, nil
		}
		<-ctx.Done()
		return checked{}, context.Cause(ctx)
	}}})
	_, err := l.Ready(briefly(t))
	var e *NotReadyError
	if !errors.As(err, &e) || !errors.Is(err, errOver) || asked == 3 && e.Err.Error() != "exec:x ended with exit status 2: the test is over" {
		t.Errorf("Ready = %v after %d checks", err, asked)
	}
}

func TestCheck_IsAskedUntilItHasHeldOnce(t *testing.T) {
	r := newRig(t)
	count := filepath.Join(t.TempDir(), "count")
	l := r.start(r.sh(r.child(), "echo >> "+count+"; test $(wc -l < "+count+") -ge 3"))
	for range 3 {
		if _, err := l.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if text, _ := os.ReadFile(count); string(text) != "\n\n\n" {
		t.Errorf("the check was asked %d times, want 3", len(text))
	}
	r.stop(l)
}

func TestCheck_HasWhatTheChildHas(t *testing.T) {
	r := newRig(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cmd := r.child()
	cmd.Dir, cmd.Env = dir, append(cmd.Env, "WORD=hello")
	l := r.start(r.sh(cmd, `{ pwd; echo $WORD; echo $TIPROXY_CHILD; cat; ls /proc/self/fd | tr "\n" " "; echo; ps -o pgid= $$ | tr -d " "; echo $$; } > out.tmp && mv out.tmp out`))
	if _, err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(got) != 6 || got[0] != dir || got[1] != "hello" || got[2] != checkMark(l.tree.mark) || got[3] != "0 1 2 3 " || got[4] != got[5] {
		t.Errorf("directory, word, mark, descriptors, group, pid: %q", got)
	}
	r.stop(l)
}

// A check, and what it starts, belong to nobody but the check.
func TestCheck_IsNoPartOfTheChild(t *testing.T) {
	for _, how := range []string{"group", "setsid", "daemon"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t)
			said := filepath.Join(t.TempDir(), "said")
			script := strings.Join(append([]string{"exec"}, r.self("parent", how, "wait", "deep")...), " ") + " > " + said
			l := r.start(r.sh(r.child(), script))
			waited := make(chan error, 1)
			go askReady(l, waited)
			var deep string
			eventually(t, "the check's grandchild is there", func() bool {
				text, _ := os.ReadFile(said)
				_, rest, _ := strings.Cut(string(text), "deep ")
				deep, _, _ = strings.Cut(rest, "\n")
				return deep != ""
			})
			for range 5 {
				if pids := pidsOf(l.tree.members()); !slices.Equal(pids, []int{l.Pid()}) {
					t.Errorf("members %v, want the child %d alone", pids, l.Pid())
				}
				if pids := l.tree.Pids(); !slices.Equal(pids, []int{l.Pid()}) {
					t.Errorf("pids %v, want the child %d alone", pids, l.Pid())
				}
			}
			_ = syscall.Kill(l.Pid(), syscall.SIGTERM)
			// On a busy machine the check may not be gone in time; then it is what
			// is left, and Stop waits for it.
			e := r.exit(l)
			if e.Left && !loaded() || e.Status != "signal: terminated" {
				t.Errorf("exit = %+v", e)
			}
			if !e.Left && isAlive(atoi([]byte(deep))) {
				t.Error("what the check had started outlives the child")
			}
			if e := asExitError(t, within(t, "Ready returns", waited)); e.Status != "signal: terminated" {
				t.Errorf("status %q", e.Status)
			}
			r.stop(l)
			if isAlive(atoi([]byte(deep))) {
				t.Error("what the check had started outlives the stop")
			}
			r.quiet()
		})
	}
}

// What a check leaves is ended with it, and before the next one begins.
func TestCheck_LeavesNothing(t *testing.T) {
	for name, mode := range map[string][]string{
		"that failed":  {"leave", "daemon-quiet", "3", "ignore"},
		"that held":    {"leave", "daemon-quiet", "0", "ignore"},
		"that hangs":   {"parent", "daemon-quiet", "ignore"},
		"in its group": {"parent", "group", "ignore"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			l := r.start(r.checking(r.child(), r.self(mode...)...))
			limitChecks(l, 100*time.Millisecond)
			ctx, holds := briefly(t), name == "that held"
			if holds {
				limitChecks(l, patience)
				ctx = t.Context()
			}
			if _, err := l.Ready(ctx); (err == nil) != holds {
				t.Errorf("Ready = %v", err)
			}
			eventually(t, "the child alone is left", func() bool { return slices.Equal(bearers(r.token), []int{l.Pid()}) })
			r.stop(l)
			r.quiet()
		})
	}
}

func TestCheck_EndsPromptlyWithTheStop(t *testing.T) {
	r := newRig(t)
	l := r.start(r.checking(r.command(r.self("ignore")...), r.self("parent", "setsid", "ignore")...))
	limitChecks(l, time.Hour)
	r.out.number(t, "pid")
	waited := make(chan error, 1)
	go askReady(l, waited)
	eventually(t, "the check runs", func() bool { return len(bearers(r.token)) == 3 })
	stopped := make(chan struct{})
	go stopAndTell(l, t.Context(), stopped)
	// The child ignores the stop signal, so the stop takes long; no check does.
	eventually(t, "the child alone is left", func() bool { return slices.Equal(bearers(r.token), []int{l.Pid()}) })
	r.stopBy(l, done())
	within(t, "the polite stop returns", stopped)
	if err := within(t, "Ready returns", waited); err == nil {
		t.Error("a life that was stopped is ready")
	}
}

// Nobody but the life's end waits for a check that cannot be ended: a process in
// uninterruptible sleep. A channel stands for it.
func TestCheck_IsNotWaitedForByReady(t *testing.T) {
	r := newRig(t)
	l := r.start(r.child())
	l.gates = newGates([]gate{&checkGate{check: Check{Name: "x"}, limit: patience, run: l.runCheck}})
	stuck := make(chan struct{})
	l.mu.Lock()
	l.checked = stuck // of a check of which something is left
	l.mu.Unlock()
	if _, err := l.Ready(briefly(t)); !errors.Is(err, errOver) {
		t.Errorf("Ready = %v", err)
	}
	_ = syscall.Kill(l.Pid(), syscall.SIGKILL)
	if e := r.exit(l); !e.Left || e.Status != "signal: killed" || strings.Contains(e.StartErr.Error(), "background") {
		t.Errorf("exit = %+v", e)
	}
	stopped := make(chan struct{})
	go stopAndTell(l, t.Context(), stopped)
	select {
	case <-stopped:
		t.Error("the life is gone though its check is not")
	case <-time.After(brieflyTime):
	}
	close(stuck)
	within(t, "Stop returns", stopped)
}

// However the program dies, what it asked dies with it.
func TestCheck_DiesWithTheProgram(t *testing.T) {
	for _, how := range []string{"group", "setsid", "daemon"} {
		t.Run(how, func(t *testing.T) {
			token := newToken(t)
			cmd, out := program(t, token, hosted("check", token, childOf(token, "parent", how, "ignore")...))
			out.number(t, "keeper")
			most := 4 // the program, its child, the check, and what that has started
			if how == "daemon" {
				most = 5 // through one in the middle, which is a zombie or gone soon
			}
			eventually(t, "the check is there", func() bool { n := len(bearers(token)); return n == 4 || n == most })
			killedTree(t, token, cmd)
		})
	}
}

// What the child puts into the background while a check runs is the child's, also
// without the environment where the mark is: it is not ended with the check.
func TestCheck_LeavesTheChildsOrphansAlone(t *testing.T) {
	r := newRig(t)
	said := filepath.Join(t.TempDir(), "said")
	start := fifo(t)
	daemon := strings.Join(r.self("parent", "daemon-bare", "wait", "deep"), " ")
	cmd := r.command("/bin/sh", "-c", "read line <"+start+"; exec "+daemon+" > "+said)
	l := r.start(r.sh(cmd, "echo go > "+start+"; until grep -q deep "+said+" && grep -q parent "+said+"; do sleep 0.02; done"))
	limitChecks(l, patience)
	if _, err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(said)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "deep ")
	line, _, _ := strings.Cut(rest, "\n")
	deep := atoi([]byte(line))
	l.mu.Lock()
	checked := l.checked
	l.mu.Unlock()
	within(t, "nothing of the check is left", checked)
	if !isAlive(deep) {
		t.Errorf("process %d of the child was killed with the check", deep)
	}
	r.stop(l)
	if isAlive(deep) {
		t.Error("it outlives the child")
	}
	r.quiet()
}
