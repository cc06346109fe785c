//go:build linux

package soak

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// space is a network namespace, stood for by one thread in it. The thread
// outlives what it starts, so the parent-death signal (which follows the
// thread, not the process) fires only when the space or the test binary ends.
type space struct {
	calls chan func()
	ns    *os.File
}

// newSpace makes a network with nothing in it but loopback. It ends with the test.
func newSpace(t *testing.T) *space {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root, for network namespaces: run the tests as root, for example in a container")
	}
	s := &space{calls: make(chan func())}
	go s.serve()
	t.Cleanup(func() { close(s.calls) })
	var err error
	s.do(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			s.ns, err = os.Open("/proc/thread-self/ns/net")
		}
	})
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { s.ns.Close() })
	s.must(t, "ip", "link", "set", "lo", "up")
	return s
}

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

// start starts cmd there. The process dies with the space.
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

// run runs a short command there and returns what it printed.
func (s *space) run(line ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.start(cmd); err != nil {
		return "", fmt.Errorf("start %v: %w", line, err)
	}
	if err := wait(cmd); err != nil {
		return out.String(), fmt.Errorf("%v: %w: %s", line, err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

func (s *space) must(t *testing.T, line ...string) string {
	t.Helper()
	out, err := s.run(line...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// sysctl sets a value of this network only.
func (s *space) sysctl(key, value string) (err error) {
	s.do(func() { err = os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) })
	return err
}

// home is the network of the test binary.
var home = func() *os.File {
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		panic(err)
	}
	return f
}()

// dial connects from there. It takes a thread of its own meanwhile, as a
// socket belongs to the network in which its thread was when it was made.
func (s *space) dial(ctx context.Context, address string) (*net.TCPConn, error) {
	runtime.LockOSThread()
	if err := unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, os.NewSyscallError("setns", err)
	}
	d := net.Dialer{KeepAliveConfig: eager}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp", address)
	// A thread that cannot come back stays locked and ends with its goroutine.
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// eager makes a client that has nothing to send notice a lost reset: the
// kernel sends a reset once, and the link may lose it. It gives up on a peer
// that does not answer only after the longest outage of any plan.
var eager = net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 120}
