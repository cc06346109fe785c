//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// stopTime is how long a program may take to end after SIGTERM.
const stopTime = 5 * time.Second

// program is one that was started here, in a process group of its own.
type program struct {
	cmd  *exec.Cmd
	log  string // the file that it prints to
	done chan struct{}
}

// spawn starts a program that prints to dir/NAME.log. It does not outlive us.
func spawn(dir string, line []string) (*program, error) {
	path := filepath.Join(dir, filepath.Base(line[0])+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p, err := spawnTo(dir, line, log)
	if err == nil {
		p.log = path
	}
	return p, err
}

// spawnTo is spawn for a program that prints to a file which is open.
func spawnTo(dir string, line []string, out *os.File) (*program, error) {
	p := &program{cmd: exec.Command(line[0], line[1:]...), done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", line[0], err)
	}
	go p.reap()
	return p, nil
}

// reap ends with the program.
func (p *program) reap() {
	_ = p.cmd.Wait() // how it ended is in ProcessState
	close(p.done)
}

// stop ends the program and whatever is left of its process group. nil is fine.
func (p *program) stop() {
	if p == nil {
		return
	}
	pid := p.cmd.Process.Pid
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
	select {
	case <-p.done:
	case <-time.After(stopTime):
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL) // mostly nobody is left
	<-p.done
}

// ended reports whether the program is gone.
func (p *program) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// lastWords returns the end of what the program printed.
func (p *program) lastWords() string {
	const most = 600
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(text[max(0, len(text)-most):]))
}
