//go:build linux

package soak

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// moment is a reading of CLOCK_MONOTONIC in nanoseconds: the same clock in
// every process, and nobody can set it.
type moment int64

func now() moment {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // the kernel has always had this clock
	}
	return moment(ts.Nano())
}

func (m moment) since() time.Duration { return time.Duration(now() - m) }

// String is the moment as tiproxy's log would date it. For people only: the wall
// clock decides nothing here.
func (m moment) String() string {
	return time.Now().UTC().Add(-m.since()).Format("15:04:05.000")
}

// ident names one process for ever: a pid alone may be given to another one.
type ident struct {
	pid     int
	started uint64 // clock ticks since boot
}

func (i ident) String() string { return fmt.Sprintf("%d.%d", i.pid, i.started) }

func parseIdent(text string) (i ident, err error) {
	_, err = fmt.Sscanf(text, "%d.%d", &i.pid, &i.started)
	return i, err
}

// process is one line of the process table.
type process struct {
	ident
	ppid  int
	state byte // see proc(5): 'Z' is a zombie
	comm  string
}

func (p process) String() string {
	return fmt.Sprintf("[%d %s %c parent %d]", p.pid, p.comm, p.state, p.ppid)
}

// exe is the program it runs, "" when it has ended.
func (p process) exe() string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid))
	if err != nil {
		return ""
	}
	return path
}

// hasEnv looks for KEY=VALUE in the environment it was started with.
func (p process) hasEnv(pair string) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid))
	return err == nil && slices.ContainsFunc(bytes.Split(env, []byte{0}), func(e []byte) bool { return string(e) == pair })
}

// descriptors is how many files a process has open.
func descriptors(pid int) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
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
	p := process{ident: ident{pid: pid}, comm: stat[open+1 : end], state: fields[0][0]}
	p.ppid, _ = strconv.Atoi(fields[1])
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

// descendants are the processes below pid, parents first, without pid itself.
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

// signalOnly sends sig to the process that id names, and to no other one that
// may have its pid by now. It returns a descriptor that becomes readable when
// the process has ended: see pidfd_open(2).
func signalOnly(id ident, sig unix.Signal) (pidfd int, err error) {
	pidfd, err = unix.PidfdOpen(id.pid, 0)
	if err != nil {
		return -1, err
	}
	if p, ok := readProcess(id.pid); !ok || p.ident != id {
		unix.Close(pidfd)
		return -1, unix.ESRCH
	}
	if err := unix.PidfdSendSignal(pidfd, sig, nil, 0); err != nil {
		unix.Close(pidfd)
		return -1, err
	}
	return pidfd, nil
}

// putAway ends processes that should have been gone, once they are counted.
func putAway(left []process) {
	for _, p := range left {
		if pidfd, err := signalOnly(p.ident, unix.SIGKILL); err == nil {
			unix.Close(pidfd)
		}
	}
}

// awaitEnd waits until the process of pidfd has ended, and closes pidfd. It
// reports false when that takes too long.
func awaitEnd(pidfd int) bool {
	defer unix.Close(pidfd)
	for began := now(); began.since() < bound; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 50)
		if n > 0 {
			return true
		}
		if err != nil && err != unix.EINTR {
			return false
		}
	}
	return false
}

// started remembers the processes that were started here and are waited for by
// whoever started them. Everything else that becomes our child is an orphan of theirs.
var started struct {
	sync.RWMutex // held for reading while one is being started
	list         sync.Map
}

// reapOrphans reaps the dead that fell to us, as init would do, and returns
// those that live.
func reapOrphans() []process {
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
