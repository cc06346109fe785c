//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// program is one that the harness started.
type program struct {
	cmd  *exec.Cmd
	out  *capture
	done chan struct{} // closed when it has ended
}

// spawn starts a program with everything it prints captured.
func spawn(line ...string) (*program, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p := &program{cmd: exec.Command(line[0], line[1:]...), out: &capture{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = write, write
	err = startAwaited(p.cmd)
	write.Close()
	if err != nil {
		read.Close()
		return nil, fmt.Errorf("start %v: %w", line, err)
	}
	go p.out.feed(read)
	go p.reap()
	return p, nil
}

func startAwaited(cmd *exec.Cmd) error {
	awaited.RLock()
	defer awaited.RUnlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	awaited.pids.Store(cmd.Process.Pid, true)
	return nil
}

// reap ends with the program.
func (p *program) reap() {
	_ = p.cmd.Wait() // how it ended is in ProcessState
	awaited.pids.Delete(p.cmd.Process.Pid)
	close(p.done)
}

func (p *program) pid() int { return p.cmd.Process.Pid }

func (p *program) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// ends waits for its end, for at most limit.
func (p *program) ends(limit time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(limit):
		return false
	}
}

// output runs a short program to its end.
func output(line ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := startAwaited(cmd); err != nil {
		return "", err
	}
	defer awaited.pids.Delete(cmd.Process.Pid)
	late := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	err := cmd.Wait()
	return out.String(), err
}

// capture counts the lines that come out of a program and keeps the last of them.
type capture struct {
	mu    sync.Mutex
	lines int
	last  []byte
}

const captureKeeps = 16 << 10

// feed ends when the last process that holds the other side has closed it.
func (c *capture) feed(r *os.File) {
	defer r.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := r.Read(b)
		c.add(b[:n])
		if err != nil {
			return
		}
	}
}

func (c *capture) add(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines += bytes.Count(b, []byte{'\n'})
	c.last = append(c.last, b...)
	if extra := len(c.last) - captureKeeps; extra > 0 {
		c.last = append(c.last[:0], c.last[extra:]...)
	}
}

func (c *capture) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines
}

func (c *capture) tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.last)
}

// processLine is one line of the process table.
type processLine struct {
	pid, ppid int
	state     byte // see proc(5): 'Z' is a zombie
	comm      string
	ticks     uint64 // of CPU time, user and system
}

func (p processLine) String() string { return fmt.Sprintf("%d (%s)", p.pid, p.comm) }

func (p processLine) file(name string) string { return fmt.Sprintf("/proc/%d/%s", p.pid, name) }

// readProcess parses /proc/PID/stat. The name may hold spaces and brackets, so
// the fields are counted from the last bracket on; proc(5) numbers them from
// the pid: state is number 3, utime 14, stime 15.
func readProcess(pid int) (processLine, bool) {
	data, err := os.ReadFile(processLine{pid: pid}.file("stat"))
	if err != nil {
		return processLine{}, false
	}
	stat := string(data)
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return processLine{}, false
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 13 {
		return processLine{}, false
	}
	p := processLine{pid: pid, comm: stat[open+1 : end], state: fields[0][0]}
	p.ppid, _ = strconv.Atoi(fields[1])
	user, _ := strconv.ParseUint(fields[11], 10, 64)
	system, _ := strconv.ParseUint(fields[12], 10, 64)
	p.ticks = user + system
	return p, true
}

func allProcesses() []processLine {
	names, _ := filepath.Glob("/proc/[0-9]*")
	var all []processLine
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok {
			all = append(all, p)
		}
	}
	return all
}

// isServer says whether it is one of the harness's servers.
func (p processLine) isServer() bool {
	line, err := os.ReadFile(p.file("cmdline"))
	return err == nil && bytes.Contains(line, []byte("\x00role\x00server\x00")) && !bytes.Contains(line, []byte("\x00--exec\x00"))
}

// cost is what a group of processes holds and has used.
type cost struct {
	processes   int
	descriptors int
	memory      int64  // anonymous, bytes; what is shared counts once
	ticks       uint64 // CPU time
}

func costOf(group []processLine) cost {
	c := cost{processes: len(group)}
	for _, p := range group {
		c.ticks += p.ticks
		c.memory += p.pss()
		if entries, err := os.ReadDir(p.file("fd")); err == nil {
			c.descriptors += len(entries)
		}
	}
	return c
}

// pss leaves out pages of files: how many of them are there, and how many
// others map them, depends on what else the machine does.
func (p processLine) pss() (bytes int64) {
	rollup, err := os.ReadFile(p.file("smaps_rollup"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(rollup)) {
		name, rest, _ := strings.Cut(line, ":")
		if name == "Pss_Anon" || name == "Pss_Shmem" {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			bytes += kib << 10
		}
	}
	return bytes
}

// ticksPerSecond is USER_HZ, which is 100 on every Linux system (proc(5)).
const ticksPerSecond = 100

// cpu is the part of one CPU, in per cent, that went into ticks.
func cpu(ticks uint64, during time.Duration) float64 {
	return 100 * float64(ticks) / ticksPerSecond / during.Seconds()
}

func (p processLine) signal(sig syscall.Signal) error { return syscall.Kill(p.pid, sig) }
