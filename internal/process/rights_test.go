//go:build linux

package process

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Numbers of capabilities (capabilities(7)) for stageMain.
const (
	// As in a default container: neither CAP_SYS_PTRACE nor CAP_PERFMON, nor
	// CAP_SYS_ADMIN which stands for both, each of which opens environments.
	noPtrace = "drop=19,drop=38,drop=21"
	noKill   = "drop=5"
)

// The tests below mean nothing if the environment can be read all the same.
func TestNoPtraceMeansNoEnvironment(t *testing.T) {
	needRoot(t)
	token := newToken(t)
	cmd, out := program(t, token, nobody(token, "wait"))
	out.number(t, "pid")
	look := exec.Command("/proc/self/exe", stage(noPtrace, "/bin/cat", fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid))[1:]...)
	if o, err := look.CombinedOutput(); err == nil || !strings.Contains(string(o), "denied") {
		t.Errorf("%v: %q", err, o)
	}
}

// Without CAP_SYS_PTRACE the environment of a child that changed its user
// cannot be read: what can be found without it must be stopped all the same.
func TestWithoutPtrace(t *testing.T) {
	needRoot(t)
	for _, how := range []string{"group", "setsid", "daemon"} {
		t.Run("stop "+how, func(t *testing.T) {
			token := newToken(t)
			stopHosted(t, token, stage(noPtrace, hosted("serve", token, nobody(token, "parent", how, "wait", "deep")...)...))
		})
		t.Run("kill "+how, func(t *testing.T) {
			token := newToken(t)
			cmd, out := program(t, token, stage(noPtrace, hosted("serve", token, nobody(token, "parent", how, "wait", "deep")...)...))
			awaitTree(t, out, "deep")
			killedTree(t, token, cmd)
		})
	}
	t.Run("daemon of PID 1", func(t *testing.T) {
		token := newToken(t)
		host := hosted("calm", token, nobody(token, "parent", "daemon", "count", "deep")...)
		cmd, out := program(t, token, inPIDNamespace(t, stage(noPtrace, host...)...))
		out.number(t, "pid")
		out.number(t, "parent") // the one in between has ended
		_ = syscall.Kill(initOf(t, cmd.Process.Pid), syscall.SIGTERM)
		out.number(t, "term")
		out.number(t, "stopped")
		_ = cmd.Wait()
	})
}

// nobody is a child that has changed its user.
func nobody(token string, mode ...string) []string {
	return stage("uid=65534", childOf(token, mode...)...)
}

// stopHosted starts a program whose tree has two members, has it stop them and
// fails the test when anything is left.
func stopHosted(t *testing.T, token string, argv []string) {
	t.Helper()
	cmd, out := program(t, token, argv)
	awaitTree(t, out, "deep")
	_ = cmd.Process.Signal(syscall.SIGTERM)
	out.number(t, "stopped")
	if left := bearers(token); len(left) > 1 || len(left) == 1 && left[0] != cmd.Process.Pid {
		t.Errorf("left: %v", left)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// Where /proc hides other users' processes the child is stopped as a group, and
// the orphans are known as ours.
func TestHidepid(t *testing.T) {
	needRoot(t)
	for _, how := range []string{"group", "setsid", "daemon"} {
		t.Run(how, func(t *testing.T) {
			token := newToken(t)
			mode := "wait"
			if how == "setsid" {
				mode = "ignore"
			}
			host := hosted("calm", token, nobody(token, "parent", how, mode, "deep")...)
			host[0] = os.Args[0]
			// Group 0 would be exempt.
			inner := append(stage(noPtrace+",gid=12345"), host...)
			inner[0] = os.Args[0]
			script := `mount -t proc -o hidepid=2 proc /proc && exec "$@"`
			cmd, out := program(t, token, stage("umask=18",
				append([]string{unshareTool(t), "--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh"}, inner...)...))
			deep := out.number(t, "deep")
			out.number(t, "parent")
			start := time.Now()
			_ = cmd.Process.Signal(syscall.SIGTERM)
			out.number(t, "stopped")
			if isAlive(deep) {
				t.Error("the grandchild survived")
			}
			if took := time.Since(start); took > hostedGrace && mode == "wait" && !loaded() {
				t.Errorf("asked by force only: took %v", took)
			}
			_ = cmd.Wait()
		})
	}
}

// A child that may not be signalled is waited for, and the log says why.
func TestWithoutTheRightToKill(t *testing.T) {
	needRoot(t)
	token := newToken(t)
	cmd, out := program(t, token, stage(noKill, hosted("serve", token, nobody(token, "wait")...)...))
	child := out.number(t, "child")
	out.number(t, "pid") // it has changed its user
	awaitTree(t, out)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	out.await(t, "CAP_KILL")
	if !isAlive(child) || strings.Contains(out.String(), "stopped") {
		t.Errorf("child lives: %v; output:\n%s", isAlive(child), out)
	}
	_ = syscall.Kill(child, syscall.SIGTERM)
	out.number(t, "stopped")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
