//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// whoami is a server that knows itself. It answers
//
//	status FIELD  with that line of /proc/self/status (proc_pid_status(5))
//	env NAME      with the variable, or "unset"
//	proc FILE     with /proc/self/FILE in one line
//	ioprio        with its I/O class and priority (ioprio_set(2))
//	dir           with its working directory
//	attack PID    with what it could do to that process, and to itself
func whoami(c net.Conn) {
	answer(c, func(line string) string {
		verb, arg, _ := strings.Cut(line, " ")
		switch verb {
		case "status":
			return statusField(arg)
		case "proc":
			text, _ := os.ReadFile("/proc/self/" + arg)
			return strings.Join(strings.Fields(string(text)), " ")
		case "ioprio":
			n, _, errno := syscall.Syscall(syscall.SYS_IOPRIO_GET, 1, 0, 0)
			return fmt.Sprint(n>>13, ".", n&7, " ", errno)
		case "env":
			if v, ok := os.LookupEnv(arg); ok {
				return v
			}
			return "unset"
		case "dir":
			dir, err := os.Getwd()
			return fmt.Sprint(dir, " ", err)
		case "attack":
			pid, _ := strconv.Atoi(arg)
			return fmt.Sprint(syscall.Kill(pid, syscall.SIGTERM), syscall.PtraceAttach(pid), syscall.Setuid(0), syscall.Setgroups([]int{0}))
		}
		return "what?"
	})
}

func statusField(name string) string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return "no " + name
}

// accounts makes a place where the machine has users of the test's: it returns
// a wrapper that runs tiproxy in it.
func accounts(t *testing.T) []string {
	t.Helper()
	dir := sharedDir(t)
	files := map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\nworker:x:4001:4001::/home/worker:/bin/zsh\nnohome:x:4002:4001:::\n",
		"group":  "root:x:0:\nworkers:x:4001:\nprinters:x:4005:somebody,worker\nscanners:x:4006:worker\nothers:x:4007:\n",
	}
	script := "mount --make-rprivate /"
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		script += fmt.Sprintf(" && mount --bind %s /etc/%s", path, name)
	}
	return []string{"unshare", "--mount", "sh", "-c", script + ` && exec "$@"`, "sh"}
}

func TestUser_ChildIsThatUserAndNobodyElse(t *testing.T) {
	t.Parallel()
	needRoot(t, "a child of another user")
	wrapper := accounts(t)
	for _, c := range []struct {
		user, uid, gid, groups, home, name string
	}{
		{"worker", "4001", "4001", "4001 4005 4006", "/home/worker", "worker"},
		{"4001", "4001", "4001", "4001 4005 4006", "/home/worker", "worker"},
		{"worker:others", "4001", "4007", "4005 4006", "/home/worker", "worker"},
		{"worker:4999", "4001", "4999", "4005 4006", "/home/worker", "worker"},
		{"nohome", "4002", "4001", "4001", "/", "nohome"},
		{"4321:others", "4321", "4007", "", "/", "unset"},
	} {
		t.Run(c.user, func(t *testing.T) {
			t.Parallel()
			dest := "127.0.0.1:" + freePort(t)
			p := run(t, setup{
				wrapper: wrapper, dest: dest, program: self, args: []string{"role", "whoami", dest},
				flags: []string{"--user", c.user, "--idle", "300ms"}, env: []string{"SHELL=/bin/evil", "USER=root", "LOGNAME=root", "HOME=/root"},
			})
			conn := dial(t, host(), p.address())
			four := func(id string) string { return strings.Join([]string{id, id, id, id}, " ") }
			const none = "0000000000000000"
			for question, want := range map[string]string{
				"status Uid": four(c.uid), "status Gid": four(c.gid), "status Groups": c.groups,
				"status CapInh": none, "status CapPrm": none, "status CapEff": none, "status CapAmb": none,
				"env HOME": c.home, "env USER": c.name, "env LOGNAME": c.name, "env SHELL": "unset",
			} {
				if got := mustAsk(t, conn, question); got != want {
					t.Errorf("%s is %q, want %q", question, got, want)
				}
			}
			conn.Close()
			if e := p.expect("closed"); e.text("status") != "exit status 0" {
				t.Errorf("not stopped politely: %s", e.line)
			}
			p.asleep()
		})
	}
}

func TestUser_EnvWins(t *testing.T) {
	t.Parallel()
	needRoot(t, "a child of another user")
	dest, dir := "127.0.0.1:"+freePort(t), sharedDir(t)
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "whoami", dest},
		flags: []string{"--user", "nobody", "--env", "HOME=/tmp/here", "--env", "SHELL=/bin/dash", "--workdir", dir},
	})
	conn := dial(t, host(), p.address())
	for question, want := range map[string]string{
		"env HOME": "/tmp/here", "env SHELL": "/bin/dash", "env USER": "nobody", "dir": dir + " <nil>",
	} {
		if got := mustAsk(t, conn, question); got != want {
			t.Errorf("%s is %q, want %q", question, got, want)
		}
	}
}

// A child that was taken over can neither end tiproxy nor look into it, nor
// get back what tiproxy may do.
func TestUser_ChildCannotReachTiproxy(t *testing.T) {
	t.Parallel()
	needRoot(t, "a child of another user")
	for _, as := range []string{"root", "plain user with capabilities"} {
		t.Run(as, func(t *testing.T) {
			t.Parallel()
			dest := "127.0.0.1:" + freePort(t)
			s := setup{dest: dest, program: self, args: []string{"role", "whoami", dest}, flags: []string{"--user", "65534:65534"}}
			if as != "root" {
				s.wrapper = withCaps("setuid", "setgid", "kill")
			}
			p := run(t, s)
			conn := dial(t, host(), p.address())
			no := syscall.EPERM.Error()
			want := strings.Join([]string{no, no, no, no}, " ")
			if got := mustAsk(t, conn, fmt.Sprint("attack ", p.pid())); got != want {
				t.Errorf("kill, ptrace, setuid(0), setgroups: %q, want %q", got, want)
			}
		})
	}
}

// withCaps is a wrapper that runs tiproxy as a plain user with just these
// capabilities, which its keeper inherits.
func withCaps(names ...string) []string {
	caps := "-all"
	for _, name := range names {
		caps += ",+" + name
	}
	return []string{"setpriv", "--reuid=4100", "--regid=4100", "--clear-groups",
		"--inh-caps=" + caps, "--ambient-caps=" + caps, "--bounding-set=" + caps, "--"}
}

// tiproxy needs no more than three capabilities for a child of another user.
// What is degraded then: its sockets are told by their user and time (one line
// says so), for their owner may not be looked into.
func TestUser_ThreeCapabilitiesWillDo(t *testing.T) {
	t.Parallel()
	needRoot(t, "a child of another user")
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		wrapper: withCaps("setuid", "setgid", "kill"), dest: dest, program: "sh",
		args:  []string{"-c", `setsid "$@" & "$1" role never & wait`, "sh", self, "role", "stubborn", dest},
		flags: []string{"--user", "65534:65534", "--stop-timeout", "200ms", "--idle", "100ms"},
	})
	for range 2 {
		conn := dial(t, host(), p.address())
		mustAsk(t, conn, "hello")
		if len(p.tree()) < 2 {
			t.Errorf("tree: %v", p.tree())
		}
		conn.Close()
		p.expect("closed")
		p.asleep()
	}
	if n := p.log.count("the child's sockets cannot be told for sure"); n != 1 {
		t.Errorf("said %d times that the sockets are guessed, want once", n)
	}
	mustAsk(t, dial(t, host(), p.address()), "hello")
	p.tree()
	p.kill()
	p.gone()
}

// The parent-death signal is a belt beside the keeper that holds where the
// user was changed by tiproxy: a keeper that cannot run is not missed.
func TestUser_SuddenDeathWithoutAKeeper(t *testing.T) {
	t.Parallel()
	needRoot(t, "a child of another user")
	for name, wrapper := range map[string][]string{"root": nil, "plain user with capabilities": withCaps("setuid", "setgid", "kill")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dest := "127.0.0.1:" + freePort(t)
			p := run(t, setup{
				wrapper: wrapper, dest: dest, program: self, args: []string{"role", "stubborn", dest}, flags: []string{"--user", "65534:65534"},
			})
			mustAsk(t, dial(t, host(), p.address()), "hello")
			child, keeper := p.childAndKeeper()
			if err := syscall.Kill(keeper.pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			p.kill()
			began := time.Now()
			eventually(t, "the child is gone", child.isGone)
			t.Logf("gone %v after the kill", time.Since(began))
			_ = syscall.Kill(keeper.pid, syscall.SIGKILL)
			p.gone()
		})
	}
}

// childAndKeeper waits until there is one of each.
func (p *tiproxy) childAndKeeper() (child, keeper process) {
	p.t.Helper()
	eventually(p.t, "a child and its keeper", func() error {
		children := p.running("e2e-child")
		keepers := slices.DeleteFunc(descendants(p.pid()), func(d process) bool { return d.comm != "tp-keeper" })
		if len(children) != 1 || len(keepers) != 1 {
			return fmt.Errorf("children %v, keepers %v", children, keepers)
		}
		child, keeper = children[0], keepers[0]
		return nil
	})
	return child, keeper
}

// isGone is an error as long as the process lives.
func (p process) isGone() error {
	if q, found := readProcess(p.pid); found && q.started == p.started && q.state != 'Z' {
		return fmt.Errorf("%v lives", q)
	}
	return nil
}

// What tiproxy lacks is said before it opens anything.
func TestUser_NeedsTheRight(t *testing.T) {
	t.Parallel()
	needRoot(t, "tiproxy as another user")
	front := filepath.Join(sharedDir(t), "front")
	for name, c := range map[string]struct {
		wrapper []string
		user    string
		status  int
		says    []string
	}{
		"plain user": {withCaps(), "65534:65534", 2, []string{"--user", "uid 65534", "missing: CAP_SETUID, CAP_SETGID, CAP_KILL"}},
		"no kill":    {withCaps("setuid", "setgid"), "65534:65534", 2, []string{"missing: CAP_KILL)"}},
		"no file":    {nil, "nobody", 2, []string{"/root may not be entered by this user", "user nobody (uid 65534)"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup{wrapper: c.wrapper, bind: "unix:" + front, dest: "127.0.0.1:" + freePort(t), program: self, flags: []string{"--user", c.user}, status: c.status}
			if c.wrapper == nil {
				s.flags = append(s.flags, "--workdir", "/root")
			}
			p := launch(t, s)
			p.ends(prompt)
			p.log.untilEnd(prompt)
			for _, part := range c.says {
				if !strings.Contains(p.log.text(), part) {
					t.Errorf("%q does not say %q", p.log.text(), part)
				}
			}
			if _, err := os.Lstat(front); err == nil {
				t.Error("the address was opened all the same")
			}
		})
	}
}

// Our own user needs no right at all.
func TestUser_OwnUserNeedsNothing(t *testing.T) {
	t.Parallel()
	needRoot(t, "tiproxy as another user")
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		wrapper: withCaps(), dest: dest, program: self, args: []string{"role", "whoami", dest}, flags: []string{"--user", "4100:4100"},
	})
	if got := mustAsk(t, dial(t, host(), p.address()), "status Uid"); got != "4100 4100 4100 4100" {
		t.Errorf("the child's user is %q", got)
	}
}

// What becomes forbidden later is told with who and what.
func TestUser_StartFailureNamesUserAndPath(t *testing.T) {
	t.Parallel()
	needRoot(t, "a child of another user")
	dir := sharedDir(t)
	program := filepath.Join(dir, "server")
	if err := copyFile(program, self); err != nil {
		t.Fatal(err)
	}
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		dest: dest, program: program, args: []string{"role", "echo", dest}, flags: []string{"--user", "nobody", "--workdir", dir},
		allow: []string{"start failed"},
	})
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := askAfresh(t, host(), p.address(), "hello"); !wasReset(err) {
		t.Errorf("the client saw %v, want a reset", err)
	}
	e := p.expect("start failed")
	for _, part := range []string{"permission denied", "user nobody (uid 65534) must be allowed to enter " + dir, "to execute " + program} {
		if !strings.Contains(e.line, part) {
			t.Errorf("%s does not say %q", e.line, part)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mustAsk(t, dial(t, host(), p.address()), "it heals")
}
