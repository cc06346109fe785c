package process

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// listener is the descriptor of a listening socket, as a child is handed one.
func listener() uintptr {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		panic(err)
	}
	return uintptr(fd)
}

// activated is a command that is handed a listener, which the test closes.
func (r *rig) activated(args ...string) Command {
	r.t.Helper()
	cmd := r.command(args...)
	cmd.Activated, cmd.Listener = true, listener()
	r.t.Cleanup(func() { unix.Close(int(cmd.Listener)) })
	return cmd
}

func TestActivatedChildIsToldOfItsListener(t *testing.T) {
	r := newRig(t)
	cmd := r.activated("/usr/bin/env", "-0")
	cmd.Service = "a:b"
	cmd.Env = []string{"A=1", "LISTEN_PID=1", "LISTEN_FDS=7", "LISTEN_FDNAMES=x", "B=2"}
	l := r.start(cmd)
	r.exit(l)
	want := []string{"A=1", "B=2", "LISTEN_FDS=1", "LISTEN_FDNAMES=a-b", "TIPROXY_CHILD=a:b.1" + r.host.name, fmt.Sprint("LISTEN_PID=", l.Pid()), ""}
	if got := strings.Split(r.out.String(), "\x00"); !slices.Equal(got, want) {
		t.Errorf("environment %q, want %q", got, want)
	}
}

func TestActivatedChildHasItsListenerAndNothingElse(t *testing.T) {
	r := newRig(t)
	cmd := r.activated("/bin/sleep", "1000")
	cmd.Args[0] = "another name"
	l := r.start(cmd)
	var inode unix.Stat_t
	if err := unix.Fstat(int(cmd.Listener), &inode); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the dynamic loader is done", func() bool { return procName(l.Pid()) == "sleep" && len(linksOf(l.Pid())) == 4 })
	fds := linksOf(l.Pid())
	if fds[0] != "0 /dev/null" || !strings.HasPrefix(fds[1], "1 pipe:") || !strings.HasPrefix(fds[2], "2 pipe:") || fds[3] != fmt.Sprintf("3 socket:[%d]", inode.Ino) {
		t.Errorf("descriptors %q", fds)
	}
	if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", l.Pid())); string(line) != "another name\x001000\x00" {
		t.Errorf("arguments %q", line)
	}
	if p, _ := readProc(l.Pid()); p.pgrp != l.Pid() {
		t.Errorf("process group %d of child %d", p.pgrp, l.Pid())
	}
}

func TestActivatedChildDiesWithUs(t *testing.T) {
	r := newRig(t)
	r.exit(r.start(r.activated(r.self("deathsig")...)))
	if got := r.out.number(t, "deathsig"); got != int(unix.SIGKILL) {
		t.Errorf("signal %d", got)
	}
}

// That a program cannot be executed is said as it is of any other child.
func TestActivatedChildThatCannotBeExecuted(t *testing.T) {
	r := newRig(t)
	file := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(file, []byte("no program\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	e := r.exit(r.start(r.activated(file)))
	err := asExitError(t, e.Err)
	if said := strings.Join(err.LastLines, " "); err.Status != "exit status 126" || !strings.Contains(said, "start "+file) || !strings.Contains(said, "#!/bin/sh") {
		t.Errorf("%s: %q", err.Status, said)
	}
}

// It is tiproxy itself that another user has to be able to execute first.
func TestActivatedChildOfAUserWhoMayNotExecuteUs(t *testing.T) {
	c := Command{Path: "/bin/true", Dir: "/", Activated: true, User: &Credential{Name: "nobody", UID: 65534, GID: 65534}}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := startError(&c, unix.EACCES); !strings.Contains(err.Error(), "execute tiproxy itself ("+self+")") {
		t.Errorf("the hint is another one: %v", err)
	}
}
