//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// space is where commands start and sockets are made: a network namespace,
// stood for by one thread in it. The thread outlives what it starts, so a
// parent-death signal (which follows the thread, not the process) fires only
// if the whole test binary is killed, and then nothing of a test stays behind.
type space struct {
	calls chan func()
}

// host is the network that the tests share.
var host = sync.OnceValue(func() *space {
	s := &space{calls: make(chan func())}
	go s.serve()
	return s
})

// serve never unlocks its thread, so the thread ends with it.
func (s *space) serve() {
	runtime.LockOSThread()
	for call := range s.calls {
		call()
	}
}

// do runs f on the space's thread. f must not block for long.
func (s *space) do(f func()) {
	done := make(chan struct{})
	s.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// start starts cmd there. The process dies with this test binary.
func (s *space) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started.RLock()
	defer started.RUnlock()
	var err error
	s.do(func() { err = cmd.Start() })
	if err == nil {
		started.list.Store(cmd.Process.Pid, true)
	}
	return err
}

// wait waits for a command that start started, and forgets its pid.
func wait(cmd *exec.Cmd) error {
	defer started.list.Delete(cmd.Process.Pid)
	return cmd.Wait()
}

// newNetwork makes a network with nothing in it but loopback, where fixed
// ports clash with nobody's. It ends with the test.
func newNetwork(t *testing.T) *space {
	t.Helper()
	needRoot(t, "a network namespace of its own")
	s := &space{calls: make(chan func())}
	go s.serve()
	var err error
	s.do(func() { err = enterNewNetwork() })
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { close(s.calls) })
	return s
}

func enterNewNetwork() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}

// needRoot fails rather than skips: a test that quietly did not run would be
// taken for one that passed.
func needRoot(t *testing.T, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatalf("needs root, for %s: run the tests as root, for example in a container", what)
	}
}
