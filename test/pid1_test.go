//go:build linux

package e2e

import (
	"fmt"
	"strconv"
	"syscall"
	"testing"
)

// asInit runs tiproxy as the first process of a PID namespace, as in a
// container without an init.
func asInit(t *testing.T, role string, flags ...string) *tiproxy {
	t.Helper()
	needRoot(t, "a PID namespace")
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", role, dest}, flags: flags,
		wrapper: []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--"},
	})
	if p.pid() == p.cmd.Process.Pid {
		t.Fatal("tiproxy is not a child of unshare")
	}
	return p
}

func TestPID1_ReapsStrangersAndEndsOnSIGTERM(t *testing.T) {
	p := asInit(t, "echo", "--idle", "10m", "--drain-timeout", "10m")
	c := dial(t, host(), p.address())
	mustAsk(t, c, "hello")
	child := p.running("e2e-child")
	if len(child) != 1 {
		t.Fatalf("tree: %v", p.tree())
	}

	// A stranger enters the namespace and leaves orphans to its init. They
	// have no process of ours among their ancestors.
	init := strconv.Itoa(p.pid())
	for range 20 {
		mustClient(t, "", "nsenter", "-t", init, "-p", "-m", "sh", "-c", "(true & exec sh -c 'exit 3') & (setsid sh -c 'exit 4' &)")
	}
	eventually(t, "every orphan is reaped", func() error {
		for _, d := range descendants(p.pid()) {
			if d.pid != child[0].pid && !p.runsTiproxy(d.pid) {
				return fmt.Errorf("still there: %v", d)
			}
		}
		return nil
	})
	// The reaper took nobody's exit status but the strangers'.
	mustAsk(t, c, "still here")

	p.signal(syscall.SIGTERM)
	p.refuses()
	c.Close()
	p.ends(prompt)
}

func TestPID1_StubbornChildAndSecondSignal(t *testing.T) {
	p := asInit(t, "stubborn", "--drain-timeout", "10m", "--stop-timeout", "10m")
	c := dial(t, host(), p.address())
	mustAsk(t, c, "hello")
	p.signal(syscall.SIGTERM)
	p.refuses()
	p.signal(syscall.SIGTERM)
	p.ends(prompt)
}

func TestPID1_IdleStopAndNextStart(t *testing.T) {
	p := asInit(t, "echo", "--idle", "50ms")
	for range 3 {
		c := dial(t, host(), p.address())
		mustAsk(t, c, "hello")
		c.Close()
		p.expect("closed")
		p.asleep()
	}
}

// A script is the first process and starts tiproxy without exec.
func TestPID1_BehindAnEntryScript(t *testing.T) {
	needRoot(t, "a PID namespace")
	for _, end := range []struct {
		name string
		with func(p *tiproxy)
	}{
		{"tiproxy is asked to end", func(p *tiproxy) { p.signal(syscall.SIGTERM) }},
		{"the container is killed", func(p *tiproxy) {
			p.killed = true
			tiproxy, _ := readProcess(p.pid())
			_ = syscall.Kill(tiproxy.ppid, syscall.SIGKILL)
		}},
	} {
		t.Run(end.name, func(t *testing.T) {
			dest := "127.0.0.1:" + freePort(t)
			p := run(t, setup{
				dest: dest, program: self, args: []string{"role", "echo", dest}, flags: []string{"--drain-timeout", "0"},
				wrapper: []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--", "sh", "-c", `"$@"; exit $?`, "sh"},
			})
			mustAsk(t, dial(t, host(), p.address()), "hello")
			script, ok := readProcess(p.pid())
			if parent, found := readProcess(script.ppid); !ok || !found || parent.comm != "sh" {
				t.Fatalf("tiproxy is not the child of a script: %v", parent)
			}
			end.with(p)
			p.ends(prompt)
		})
	}
}
