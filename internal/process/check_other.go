//go:build !linux

package process

import (
	"context"
	"os/exec"
	"syscall"
	"time"
)

// runCheck runs a check in a process group of its own, which is killed when it
// has ended or ctx has.
func (l *life) runCheck(ctx context.Context, c Check) (checked, error) {
	var last tail
	cmd := exec.CommandContext(ctx, c.Path)
	cmd.Args, cmd.Dir, cmd.Env = c.Args, l.res.cmd.Dir, l.cmd.Env
	cmd.Stdout = tailWriter{&last}
	cmd.Stderr = cmd.Stdout
	cmd.SysProcAttr = l.res.cmd.sysAttr()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return checked{}, err
	}
	_ = cmd.Wait() // how it ended is in ProcessState
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	out := checked{lines: last.last()}
	if ctx.Err() != nil {
		return out, context.Cause(ctx)
	}
	out.how = endingOf(cmd.ProcessState)
	return out, nil
}

// tailWriter remembers the last lines that were written.
type tailWriter struct{ tail *tail }

func (w tailWriter) Write(p []byte) (int, error) {
	w.tail.add(0, p)
	return len(p), nil
}
