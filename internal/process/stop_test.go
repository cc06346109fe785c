//go:build linux

package process

import (
	"context"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestStopIsPolite(t *testing.T) {
	r := newRig(t)
	l := r.run("polite")
	r.out.number(t, "pid")
	r.stop(l)
	if e := r.exit(l); e.Err != nil {
		t.Errorf("exit = %+v", e)
	}
	if !strings.HasSuffix(r.out.String(), "bye\n") {
		t.Errorf("output %q lacks the last line", r.out.String())
	}
	r.quiet()
}

func TestStopSignal(t *testing.T) {
	r := newRig(t)
	cmd := r.command("/bin/sleep", "1000")
	cmd.StopSignal = syscall.SIGUSR2
	l := r.start(cmd)
	r.stop(l)
	if e := r.exit(l); e.Status != "signal: user defined signal 2" {
		t.Errorf("exit = %+v", e)
	}
}

func TestStopEndsInForce(t *testing.T) {
	tests := []struct {
		name    string
		timeout time.Duration
		ctx     context.Context
	}{
		{"after the stop timeout", 50 * time.Millisecond, context.Background()},
		{"at once", 0, context.Background()},
		{"by the context", time.Hour, done()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			cmd := r.command(r.self("ignore")...)
			cmd.StopTimeout = tt.timeout
			l := r.start(cmd)
			r.out.number(t, "pid")
			r.stopBy(l, tt.ctx)
			e := r.exit(l)
			if e.Status != "signal: killed" {
				t.Errorf("exit = %+v", e)
			}
			if hint := asExitError(t, e.Err).Hint; hint != "" {
				t.Errorf("hint %q though it was us", hint)
			}
			r.quiet()
		})
	}
}

func TestStopWaitsForTheStopTimeout(t *testing.T) {
	r := newRig(t)
	cmd := r.command(r.self("ignore")...)
	cmd.StopTimeout = 300 * time.Millisecond
	l := r.start(cmd)
	r.out.number(t, "pid")
	start := time.Now()
	r.stop(l)
	if took := time.Since(start); took < cmd.StopTimeout {
		t.Errorf("killed after %v", took)
	}
}

func TestStoppedChildIsStopped(t *testing.T) {
	r := newRig(t)
	l := r.run("polite")
	r.out.number(t, "pid")
	_ = syscall.Kill(l.Pid(), syscall.SIGSTOP)
	eventually(t, "the child is stopped", func() bool {
		p, _ := readProc(l.Pid())
		return p.state == 'T'
	})
	r.stop(l)
	if e := r.exit(l); e.Err != nil {
		t.Errorf("exit = %+v", e)
	}
}

// A program may take a second stop signal for an order to drop everything.
func TestStopSignalComesOnce(t *testing.T) {
	r := newRig(t)
	cmd := r.command(r.self("parent", "setsid", "count")...)
	cmd.StopTimeout = 700 * time.Millisecond
	l := r.start(cmd)
	r.out.number(t, "pid")
	r.out.number(t, "parent")
	r.stop(l)
	if out := r.out.String(); !strings.Contains(out, "term 1") || strings.Contains(out, "term 2") {
		t.Errorf("output:\n%s", out)
	}
}

func TestStopEndsTheWholeTree(t *testing.T) {
	for _, how := range []string{"group", "setsid", "daemon", "bare-setsid", "bare-daemon", "quiet-daemon"} {
		for _, mode := range []string{"wait", "ignore"} {
			t.Run(how+" "+mode, func(t *testing.T) {
				r := newRig(t)
				cmd := r.command(r.self("parent", how, mode, "deep")...)
				if mode == "ignore" {
					cmd.StopTimeout = 100 * time.Millisecond
				}
				l := r.start(cmd)
				r.out.number(t, "parent")
				if !strings.Contains(how, "quiet") {
					r.out.number(t, "deep")
				}
				eventually(t, "two processes at least", func() bool { return len(bearers(r.token)) >= 2 })
				r.stop(l)
				if left := bearers(r.token); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
				r.quiet()
			})
		}
	}
}

// The child is gone, the others of its tree are stopped all the same, also when
// they never were in sight before.
func TestStopAfterTheChildEnded(t *testing.T) {
	for _, how := range []string{"group", "setsid", "daemon", "bare-daemon"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t)
			l := r.run("leave", how, "1", "wait", "deep")
			e := r.exit(l)
			if !e.Left {
				t.Errorf("exit = %+v, but a grandchild lives", e)
			}
			if p, ok := readProc(l.Pid()); !ok || p.alive() {
				t.Errorf("the child is not a zombie that pins its number: %v %+v", ok, p)
			}
			r.stop(l)
			if left := bearers(r.token); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// A process whose first thread has ended looks like a zombie and is none.
func TestProcessWithoutItsFirstThread(t *testing.T) {
	r := newRig(t)
	l := r.run("leave", "setsid", "1", "headless", "deep")
	deep := r.out.number(t, "deep")
	eventually(t, "it looks like a zombie", func() bool { p, _ := readProc(deep); return p.state == 'Z' })
	if e := r.exit(l); !e.Left {
		t.Errorf("exit = %+v", e)
	}
	r.stopBy(l, done())
	if p, ok := readProc(deep); ok {
		t.Errorf("it is left: %+v", p)
	}
}

func TestWrapperScript(t *testing.T) {
	r := newRig(t)
	self := r.self("wait", "server")
	l := r.start(r.command("/bin/sh", "-c", `"$@"; true`, "sh", self[0], self[1], self[2], self[3], self[4]))
	server := r.out.number(t, "server")
	if server == l.Pid() {
		t.Fatal("the shell became the server: nothing is tested")
	}
	r.stop(l)
	if isAlive(server) {
		t.Error("the server survived")
	}
}

func TestConcurrentStops(t *testing.T) {
	r := newRig(t)
	l := r.run("ignore")
	r.out.number(t, "pid")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { l.Stop(ctx) })
	}
	cancel()
	wg.Wait()
	if _, ok := readProc(l.Pid()); ok {
		t.Error("not gone")
	}
	r.exit(l)
}

func TestStopOfALifeThatEndsByItself(t *testing.T) {
	r := newRig(t)
	for range 30 {
		l := r.start(r.command("/bin/true"))
		r.stop(l)
		if e := r.exit(l); e.Status != "exit status 0" && e.Status != "signal: terminated" {
			t.Fatalf("exit = %+v", e)
		}
	}
	r.quiet()
}

// Two trees of one host: what belongs to the other one is left alone, even when
// its mark cannot tell.
func TestStopSparesOtherTrees(t *testing.T) {
	for _, how := range []string{"daemon", "bare-daemon"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t)
			a := r.run("wait", "first")
			first := r.out.number(t, "first")
			b := r.run("parent", how, "wait", "second")
			second := r.out.number(t, "second")
			if how == "bare-daemon" {
				eventually(t, "the other tree knows its orphan", func() bool { return len(b.tree.members()) == 2 })
			}
			eventually(t, "the orphan has come to us", func() bool { p, _ := readProc(second); return p.ppid == os.Getpid() })
			r.stop(a)
			if isAlive(first) || !isAlive(second) || !isAlive(b.Pid()) {
				t.Errorf("first lives %v, second lives %v", isAlive(first), isAlive(second))
			}
			r.stop(b)
		})
	}
}
