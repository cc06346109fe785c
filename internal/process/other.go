//go:build !linux

package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"tiproxy/internal/pool"
)

// Host is nothing but a switch here: this system has no reaper of orphans and
// no keeper.
type Host struct {
	mu     sync.Mutex
	closed bool
}

// NewHost never fails here.
func NewHost(Options) (*Host, error) { return &Host{}, nil }

// Close makes later starts fail.
func (h *Host) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}

func (h *Host) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// IsKeeper is always false here.
func IsKeeper([]string) bool { return false }

// KeeperMain is never called here.
func KeeperMain([]string) int { return 2 }

// IsActivator is always false here.
func IsActivator([]string) bool { return false }

// ActivatorMain is never called here.
func ActivatorMain([]string) int { return 2 }

// Escaped finds nothing here.
func Escaped() []Left { return nil }

// Start spawns the child. It returns the prober's error when that sees no sense
// in a start, ErrHostClosed, or the kernel's error with a hint.
func (r *Resource) Start(ctx context.Context, gen uint64) (pool.Life, error) {
	if err := r.prober.Before(ctx); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if r.host.isClosed() {
		return nil, ErrHostClosed
	}
	if r.cmd.Gates.Notify {
		return nil, fmt.Errorf("notifications of the child: %w", errors.ErrUnsupported)
	}
	l := &life{
		res:    r,
		tail:   &tail{},
		exited: make(chan pool.Exit, 1),
		told:   make(chan struct{}),
	}
	if err := l.spawn(gen); err != nil {
		return nil, startError(&r.cmd, err)
	}
	l.alive, l.end = context.WithCancelCause(context.Background())
	lines := lineGates(&r.cmd.Gates)
	tapLines(lines, l.out)
	l.gates = l.gatesOf(&r.cmd.Gates, lines)
	go l.out[0].run()
	go l.out[1].run()
	go l.monitor()
	return l, nil
}

// life is one run of a child: its process group.
type life struct {
	res   *Resource
	cmd   *exec.Cmd
	tail  *tail
	out   [2]*copier
	gates *gates

	exited chan pool.Exit
	told   chan struct{} // closed when exited was sent
	how    ending        // valid once told is closed

	alive context.Context // ends with the child, cause errEnded
	end   context.CancelCauseFunc

	mu     sync.Mutex
	killed bool
}

// sysAttr is what every process that runs on behalf of c is started with: its
// own process group, and c's user.
func (c *Command) sysAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: c.User.sys()}
}

func (l *life) spawn(gen uint64) error {
	c := &l.res.cmd
	mark := fmt.Sprintf("%s.%d@%d", c.Service, gen, os.Getpid())
	l.cmd = &exec.Cmd{
		Path: c.Path, Args: c.Args, Dir: c.Dir,
		Env:         append(append([]string(nil), c.Env...), MarkVariable+"="+mark),
		SysProcAttr: c.sysAttr(),
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer outW.Close()
	errR, errW, err := os.Pipe()
	if err != nil {
		outR.Close()
		return err
	}
	defer errW.Close()
	l.cmd.Stdout, l.cmd.Stderr = outW, errW
	if err := l.cmd.Start(); err != nil {
		outR.Close()
		errR.Close()
		return err
	}
	l.out = [2]*copier{newCopier(outR, c.Stdout, l.tail, 0), newCopier(errR, c.Stderr, l.tail, 1)}
	return nil
}

// Pid returns the child's process id.
func (l *life) Pid() int { return l.cmd.Process.Pid }

// Pids knows the child alone here.
func (l *life) Pids() []int { return []int{l.Pid()} }

// Exited implements pool.Life.
func (l *life) Exited() <-chan pool.Exit { return l.exited }

// Ready asks the prober and the gates, at the longest until the child ends.
func (l *life) Ready(ctx context.Context) (net.Addr, error) {
	wait, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	unhook := context.AfterFunc(l.alive, func() { cancel(errEnded) })
	defer unhook()
	addr, err := l.gates.ready(wait, l.res.prober, l)
	if l.alive.Err() == nil {
		if err != nil {
			err = &NotReadyError{Program: l.res.cmd.Path, LastLines: l.tail.last(), Err: err}
		}
		return addr, err
	}
	select {
	case <-l.told:
		return nil, l.exitError()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *life) exitError() *ExitError {
	l.mu.Lock()
	killed := l.killed
	l.mu.Unlock()
	return l.how.err(l.res.cmd.Path, l.tail.last(), killed)
}

// monitor waits for the child and tells its end. What is left of its group then
// is killed: without a reaper it cannot be waited for.
func (l *life) monitor() {
	defer close(l.told)
	_ = l.cmd.Wait()
	l.how = endingOf(l.cmd.ProcessState)
	l.end(errEnded)
	_ = syscall.Kill(-l.Pid(), syscall.SIGKILL)
	limit := time.NewTimer(time.Second)
	defer limit.Stop()
	for _, c := range l.out {
		c.end()
		select {
		case <-c.done:
		case <-limit.C:
		}
	}
	err := l.exitError()
	e := pool.Exit{StartErr: err, Status: l.how.String()}
	if l.how.clean() {
		err.Hint = BackgroundHint(false)
	} else {
		e.Err = err
	}
	l.exited <- e
}

func endingOf(state *os.ProcessState) ending {
	ws, ok := state.Sys().(syscall.WaitStatus)
	if ok && ws.Signaled() {
		return ending{code: -1, signal: ws.Signal(), core: ws.CoreDump()}
	}
	return ending{code: state.ExitCode()}
}

// Stop implements pool.Life: stop signal and SIGCONT to the process group,
// SIGKILL after the stop timeout or as soon as ctx is done.
func (l *life) Stop(ctx context.Context) {
	signal, timeout := l.res.stop.now()
	if l.alive.Err() == nil && timeout > 0 {
		_ = syscall.Kill(-l.Pid(), signal)
		_ = syscall.Kill(-l.Pid(), syscall.SIGCONT)
	}
	grace := time.NewTimer(timeout)
	defer grace.Stop()
	select {
	case <-l.told:
		return
	case <-grace.C:
	case <-ctx.Done():
	}
	l.mu.Lock()
	l.killed = true
	l.mu.Unlock()
	if l.alive.Err() == nil {
		_ = syscall.Kill(-l.Pid(), syscall.SIGKILL)
	}
	<-l.told
}
