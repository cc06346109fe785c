package process

import (
	"bytes"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// ident names a process for good: its number may be given to another one, its
// number together with its start time may not.
type ident struct {
	pid   int
	start uint64 // clock ticks since boot (proc_pid_stat(5), field 22)
}

// proc is what one reading of /proc tells of a process.
type proc struct {
	ident
	ppid    int
	pgrp    int
	session int
	threads int
	state   byte
}

// alive is false for zombies and for processes on their way out of the table.
// The state is that of the first thread: when that has ended before the others,
// as often happens for a moment while a process ends, or for good where a
// program wants it, the process shows as a zombie that has threads, and lives.
func (p proc) alive() bool {
	return p.state != 'Z' && p.state != 'X' && p.state != 'x' || p.threads > 1
}

// readProc reads /proc/PID/stat.
func readProc(pid int) (proc, bool) {
	var buf [1024]byte
	n := readFile("/proc/"+strconv.Itoa(pid)+"/stat", buf[:])
	return parseStat(pid, buf[:n])
}

// parseStat takes the fields after the program's name, which is in parentheses
// and may hold anything, parentheses and spaces included (proc_pid_stat(5)).
func parseStat(pid int, stat []byte) (proc, bool) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return proc{}, false
	}
	f := bytes.Fields(stat[end+1:])
	if len(f) < 20 {
		return proc{}, false
	}
	start, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return proc{}, false
	}
	return proc{
		ident:   ident{pid: pid, start: start},
		state:   f[0][0],
		ppid:    atoi(f[1]),
		pgrp:    atoi(f[2]),
		session: atoi(f[3]),
		threads: atoi(f[17]),
	}, true
}

func atoi(b []byte) int {
	n, err := strconv.Atoi(string(b))
	if err != nil {
		return -1
	}
	return n
}

// readFile reads the beginning of a file into buf; 0 when it cannot be read.
// Without the poller and without allocations, unlike os.ReadFile: a scan reads
// as many files as there are processes.
func readFile(path string, buf []byte) int {
	fd, err := openFile(path)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	total := 0
	for total < len(buf) {
		n, err := unix.Read(fd, buf[total:])
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			break
		}
		total += n
	}
	return total
}

// readAll is readFile for files of unknown size; false when it cannot be read.
func readAll(path string) ([]byte, bool) {
	for size := 8 << 10; ; size *= 4 {
		buf := make([]byte, size)
		n := readFile(path, buf)
		if n < size {
			return buf[:n], n > 0
		}
	}
}

// allProcs reads the whole process table, ordered by pid.
func allProcs() []proc {
	pids := numericNames("/proc")
	slices.Sort(pids)
	procs := make([]proc, 0, len(pids))
	for _, pid := range pids {
		if p, ok := readProc(pid); ok {
			procs = append(procs, p)
		}
	}
	return procs
}

func numericNames(dir string) []int {
	fd, err := openFile(dir)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	nums := make([]int, 0, len(names))
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			nums = append(nums, n)
		}
	}
	return nums
}

// childrenOf lists the children of a process, zombies included. The kernel may
// leave out living ones when another one is being reaped at that moment
// (proc_tid_children(5)), so nobody may conclude from it that somebody is gone.
func childrenOf(pid int) []int {
	task := "/proc/" + strconv.Itoa(pid) + "/task"
	var kids []int
	for _, tid := range numericNames(task) {
		list, _ := readAll(task + "/" + strconv.Itoa(tid) + "/children")
		for f := range bytes.FieldsSeq(list) {
			if n := atoi(f); n > 0 {
				kids = append(kids, n)
			}
		}
	}
	return kids
}

// readMark returns the mark in the environment a process was started with.
// readable is false when we may not look (ptrace(2), "access mode checking"),
// and when there is nothing to see because it is on its way out.
func readMark(pid int) (mark string, readable bool) {
	env, ok := readAll("/proc/" + strconv.Itoa(pid) + "/environ")
	return markIn(env), ok
}

// markIn returns the mark in an environment, "" if there is none. As for
// getenv(3), the first of two variables of one name counts.
func markIn(env []byte) string {
	for kv := range bytes.SplitSeq(env, []byte{0}) {
		if v, found := bytes.CutPrefix(kv, []byte(MarkVariable+"=")); found {
			return string(v)
		}
	}
	return ""
}

// readUID returns the real user id of a process (proc_pid_status(5)).
func readUID(pid int) (int, bool) {
	status, _ := readAll("/proc/" + strconv.Itoa(pid) + "/status")
	return parseUID(status)
}

func parseUID(status []byte) (int, bool) {
	_, rest, _ := bytes.Cut(status, []byte("\nUid:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	f := bytes.Fields(line)
	if len(f) == 0 {
		return 0, false
	}
	uid, err := strconv.ParseUint(string(f[0]), 10, 32)
	return int(uid), err == nil
}

// signalProc sends sig to exactly the process id names: the descriptor pins it,
// and the start time proves that it is the right one (pidfd_open(2),
// pidfd_send_signal(2)). A process that is gone is no error. On kernels before
// 5.3, and where a filter forbids it, kill(2) right after the check has to do.
// It returns EMFILE when the process could not be looked at.
func signalProc(id ident, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(id.pid, 0)
	switch err {
	case nil:
		defer unix.Close(fd)
	case unix.ESRCH:
		return nil
	}
	blind := spare.misses.Load()
	if p, ok := readProc(id.pid); !ok || p.start != id.start {
		if !ok && blind != spare.misses.Load() {
			return unix.EMFILE
		}
		return nil
	}
	if err == nil {
		err = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
	if err != nil && err != unix.ESRCH {
		err = unix.Kill(id.pid, sig)
	}
	if err == unix.ESRCH {
		return nil
	}
	return err
}
