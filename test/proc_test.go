//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// process is one line of the process table. A pid alone may be given to
// somebody else; with the start time it names one process for ever.
type process struct {
	pid, ppid, pgid int
	state           byte // see proc(5): 'Z' is a zombie
	comm            string
	started         uint64 // clock ticks since boot
}

func (p process) String() string {
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	args := strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
	return fmt.Sprintf("[%d %s %c parent %d: %s]", p.pid, p.comm, p.state, p.ppid, args)
}

// exe is the program it runs, "" when it ended meanwhile.
func (p process) exe() string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid))
	if err != nil {
		return ""
	}
	return path
}

func (p process) cmdline() []string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	return strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
}

// hasEnv looks for KEY=VALUE in the environment it was started with.
func (p process) hasEnv(pair string) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid))
	return err == nil && slices.ContainsFunc(bytes.Split(env, []byte{0}), func(e []byte) bool { return string(e) == pair })
}

func (p process) descriptors() int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
	if err != nil {
		return -1
	}
	return len(entries)
}

// readProcess parses /proc/PID/stat. The name may hold spaces and brackets, so
// the fields are counted from the last bracket on; proc(5) numbers them from
// the pid, and state, the first after the name, is number 3.
func readProcess(pid int) (process, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	stat := string(data)
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return process{}, false
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 20 {
		return process{}, false
	}
	p := process{pid: pid, comm: stat[open+1 : end], state: fields[0][0]}
	p.ppid, _ = strconv.Atoi(fields[1])
	p.pgid, _ = strconv.Atoi(fields[2])
	p.started, _ = strconv.ParseUint(fields[19], 10, 64)
	return p, true
}

func allProcesses() []process {
	names, _ := filepath.Glob("/proc/[0-9]*")
	var all []process
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

// descendants are the processes below pid, without pid itself.
func descendants(pid int) []process {
	below := map[int][]process{}
	for _, p := range allProcesses() {
		below[p.ppid] = append(below[p.ppid], p)
	}
	var found []process
	for next := []int{pid}; len(next) > 0; next = next[1:] {
		for _, p := range below[next[0]] {
			found = append(found, p)
			next = append(next, p.pid)
		}
	}
	return found
}

// started remembers the processes that tests started and will wait for
// themselves. Everything else that becomes our child is an orphan of theirs.
var started struct {
	sync.RWMutex // held for reading while one is being started
	list         sync.Map
}

// unknownChildren are the orphans that fell to us and live. Those that are
// dead are reaped, as init would do.
func unknownChildren() []process {
	started.Lock()
	defer started.Unlock()
	var living []process
	for _, p := range allProcesses() {
		if _, ours := started.list.Load(p.pid); ours || p.ppid != os.Getpid() {
			continue
		}
		if p.state != 'Z' {
			living = append(living, p)
			continue
		}
		_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
	}
	return living
}
