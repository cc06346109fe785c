//go:build linux

package e2e

import (
	"slices"
	"strings"
	"syscall"
	"testing"
)

// What other programs do well in front of the server is theirs to do: they
// become the server, so tiproxy starts, knows and stops it as ever. These are
// the README's examples.
func TestPrefix_BecomesTheServer(t *testing.T) {
	t.Parallel()
	needRoot(t, "lower limits and other users")
	for _, c := range []struct {
		name     string
		prefix   []string
		question string
		says     []string
	}{
		{"prlimit", []string{"prlimit", "--nofile=512", "--core=0"}, "proc limits", []string{"Max open files 512 512", "Max core file size 0 0"}},
		{"nice", []string{"nice", "-n", "10"}, "proc stat", nil}, // see below
		{"ionice", []string{"ionice", "-c", "2", "-n", "7"}, "ioprio", []string{"2.7 "}},
		{"choom", []string{"choom", "-n", "100", "--"}, "proc oom_score_adj", []string{"100"}},
		{"setpriv no-new-privs", []string{"setpriv", "--no-new-privs"}, "status NoNewPrivs", []string{"1"}},
		{"setpriv capabilities", []string{"setpriv", "--bounding-set=-all,+net_bind_service"}, "status CapBnd", []string{"0000000000000400"}},
		{"setpriv user", []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig", "keep"}, "status Uid", []string{"65534 65534 65534 65534"}},
		{"two of them", []string{"nice", "-n", "5", "prlimit", "--nofile=512"}, "proc limits", []string{"Max open files 512 512"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dest := "127.0.0.1:" + freePort(t)
			p := run(t, setup{
				dest: dest, program: c.prefix[0], args: append(slices.Clone(c.prefix[1:]), self, "role", "whoami", dest), flags: []string{"--idle", "200ms"},
			})
			conn := dial(t, host(), p.address())
			got := mustAsk(t, conn, c.question)
			for _, part := range c.says {
				if !strings.Contains(got, part) {
					t.Errorf("%s is %q, want %q", c.question, got, part)
				}
			}
			if c.name == "nice" {
				// Field 19 of proc_pid_stat(5), the 17th behind the name.
				if f := strings.Fields(got[strings.LastIndexByte(got, ')')+1:]); f[16] != "10" {
					t.Errorf("the child's nice value is %s, want 10", f[16])
				}
			}
			if tree := p.tree(); len(tree) != 1 {
				t.Errorf("the prefix is still there: %v", tree)
			}
			conn.Close()
			if e := p.expect("closed"); e.text("status") != "exit status 0" {
				t.Errorf("not stopped politely: %s", e.line)
			}
		})
	}
}

// A prefix that changes the user loses the parent-death signal (it is dropped by
// the kernel), unless it puts it back.
func TestPrefix_SetprivKeepsTheParentDeathSignal(t *testing.T) {
	t.Parallel()
	needRoot(t, "a child of another user")
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{dest: dest, program: "setpriv", args: []string{
		"--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig", "keep", "--", self, "role", "stubborn", dest,
	}})
	mustAsk(t, dial(t, host(), p.address()), "hello")
	child, keeper := p.childAndKeeper()
	if err := syscall.Kill(keeper.pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.kill()
	eventually(t, "the child is gone", child.isGone)
	_ = syscall.Kill(keeper.pid, syscall.SIGKILL)
	p.gone()
}
