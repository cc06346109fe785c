//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// namespaces are the harness's own: a network with nothing in it but loopback,
// and process numbers under which nobody else can be found.
func namespaces() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
}

// enterWorld finishes what namespaces began.
func enterWorld() error {
	if os.Getpid() != 1 {
		return errors.New("the harness is not the first process of its namespace")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc of the new namespace: %w", err)
	}
	return loopbackUp()
}

func loopbackUp() error {
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

// awaited remembers the processes that somebody here waits for. Every other
// child is an orphan, which falls to us as the first process.
var awaited struct {
	sync.RWMutex // held for reading while one is being started
	pids         sync.Map
}

// reapOrphans takes the exit statuses that nobody else will.
func reapOrphans() {
	awaited.Lock()
	defer awaited.Unlock()
	for _, p := range allProcesses() {
		if _, ours := awaited.pids.Load(p.pid); !ours && p.state == 'Z' && p.ppid == 1 {
			_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
		}
	}
}

// clearWorld ends every process but this one. It must only be called by the
// first process of a PID namespace, which can reach nobody outside it.
func clearWorld(ctx context.Context) error {
	if os.Getpid() != 1 {
		return errors.New("refusing to end every process of a namespace that is not ours")
	}
	return poll(ctx, time.Minute, func() error {
		for _, p := range everybodyElse() {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		reapOrphans()
		if left := everybodyElse(); len(left) > 0 {
			return fmt.Errorf("cannot get rid of %v", left)
		}
		return nil
	})
}

// everybodyElse are the processes of the world, without the harness.
func everybodyElse() []processLine {
	var others []processLine
	for _, p := range allProcesses() {
		if p.pid != 1 {
			others = append(others, p)
		}
	}
	return others
}

// poll asks again and again until check is content or the time is over.
func poll(ctx context.Context, limit time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		}
	}
}

// pause passes time in which something is observed; false when the cell's own
// time is over.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
