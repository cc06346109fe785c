package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inNetwork is tiproxy in a network of its own, whose kernel hands out the
// given ports only.
func inNetwork(ports string, args ...string) *exec.Cmd {
	script := `ip link set lo up && echo "` + ports + `" > /proc/sys/net/ipv4/ip_local_port_range && exec "$0" "$@"`
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, self()}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	}
	return cmd
}

func TestBind_PortZeroIsNeverThatOfDest(t *testing.T) {
	t.Parallel()
	for _, dest := range []string{"127.0.0.1:40000", "localhost:40001"} {
		r := startCmd(t, nil, inNetwork("40000 40001", "--bind", ":0", "--dest", dest, "--exec", "sh"))
		_, taken, _ := strings.Cut(dest, ":")
		if _, port, err := net.SplitHostPort(r.address()); err != nil || port == taken || !strings.HasPrefix(port, "4000") {
			t.Errorf("listening on %s with dest %s", r.address(), dest)
		}
	}
}

func TestBind_NoPortButThatOfDest(t *testing.T) {
	t.Parallel()
	r := startCmd(t, nil, inNetwork("40000 40000", "--bind", "127.0.0.1:0", "--dest", "127.0.0.1:40000", "--exec", "sh"))
	r.exits(exitFailed)
	if said := r.said(); len(said) != 1 || !strings.HasPrefix(said[0], "tiproxy: cannot listen on 127.0.0.1:0: ") || strings.Contains(said[0], "or 0") {
		t.Errorf("tiproxy said %q", said)
	}
}

// breakListener shuts the socket down on which pid listens, as no system
// should: accept fails from then on.
func breakListener(t *testing.T, pid int, port string) {
	t.Helper()
	n, err := strconv.ParseUint(port, 10, 16)
	must(t, err)
	sockets := portSockets(uint16(n))
	pidfd, err := unix.PidfdOpen(pid, 0)
	must(t, err)
	defer unix.Close(pidfd)
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || sockets[target] != tcpListen {
			continue
		}
		fd, err := strconv.Atoi(filepath.Base(link))
		must(t, err)
		mine, err := unix.PidfdGetfd(pidfd, fd, 0)
		must(t, err)
		defer unix.Close(mine)
		must(t, unix.Shutdown(mine, unix.SHUT_RD))
		return
	}
	t.Fatalf("process %d does not listen on port %s", pid, port)
}

func TestRun_BrokenListenerEndsIt(t *testing.T) {
	t.Parallel()
	r := start(t, nil, serving(t, "serves", "--drain-timeout", "0")...)
	says(t, r.dial(), "hello")
	_, port, err := net.SplitHostPort(r.address())
	must(t, err)
	breakListener(t, r.cmd.Process.Pid, port)
	r.exits(exitFailed)
	r.logged(msgClosed, 1)
	if !strings.Contains(r.stderr.text(), "tiproxy: cannot accept connections any more: ") {
		t.Errorf("stderr: %s", r.stderr.text())
	}
}
