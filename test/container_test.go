//go:build linux

package e2e

import (
	"net"
	"strings"
	"testing"
)

// aLife starts a child, has it serve and go to sleep, twice.
func aLife(t *testing.T, p *tiproxy) {
	t.Helper()
	for range 2 {
		c := dial(t, host(), p.address())
		mustAsk(t, c, "hello")
		c.Close()
		p.expect("closed")
		p.asleep()
	}
}

func TestContainer_ReadOnlyRoot(t *testing.T) {
	t.Parallel()
	needRoot(t, "a mount namespace")
	dest := "127.0.0.1:" + freePort(t)
	const script = `mount -o remount,bind,ro / && ! touch /read-write 2>/dev/null && exec "$@"`
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "echo", dest}, flags: []string{"--idle", "20ms"},
		wrapper: []string{"unshare", "--mount", "--", "sh", "-c", script, "sh"},
	})
	aLife(t, p)
}

// Without /proc nobody's descriptors can be looked into, and parts of the tree
// may not be found: one warning for each. The child is served all the same.
func TestContainer_NoProc(t *testing.T) {
	t.Parallel()
	const (
		blind     = "/proc cannot be read: the child's own processes cannot be followed"
		unguarded = "no keeper for the child: if tiproxy is killed, parts of its tree may survive"
	)
	needRoot(t, "a mount namespace")
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "echo", dest}, flags: []string{"--idle", "20ms"},
		wrapper: []string{"unshare", "--mount", "--", "sh", "-c", `mount -t tmpfs none /proc && exec "$@"`, "sh"},
		allow:   []string{blind, unguarded},
	})
	aLife(t, p)
	for msg, most := range map[string]int{blind: 1, unguarded: 2, "the child's sockets cannot be told for sure": 1} {
		if n := p.log.count(msg); n < 1 || n > most {
			t.Errorf("%q is said %d times", msg, n)
		}
	}
}

// A stranger listens on the port from another container of the same network:
// his process cannot be seen, his socket can.
func TestContainer_StrangerInASharedNetwork(t *testing.T) {
	t.Parallel()
	needRoot(t, "a PID namespace")
	dest := "127.0.0.1:" + freePort(t)
	stranger, err := net.Listen("tcp", dest)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "echo", dest}, allow: []string{"start failed"},
		wrapper: []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--"},
	})
	if answer, err := askAfresh(t, host(), p.address(), "password=secret"); !wasReset(err) {
		t.Errorf("the client got %q, %v; want a reset", answer, err)
	}
	if e := p.expect("start failed"); !strings.Contains(e.line, "is taken by a process of uid 0") {
		t.Errorf("the log does not tell what can be told of the stranger: %s", e.line)
	}
	stranger.Close()
	mustAsk(t, dial(t, host(), p.address()), "hello")
}
