package process

import (
	"bufio"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// keeperName is the keeper's argv[0] and name in the process table. It does
	// not begin with the program's, so that killing all of those by name spares it.
	keeperName = "tp-keeper"

	huntTime  = 10 * time.Second      // the keeper gives up after this
	huntPause = 20 * time.Millisecond // between two looks
	huntCalm  = 3                     // looks in a row that found nobody
	sayTime   = time.Second           // to print a line on a stderr that may be full
)

// IsKeeper tells whether the program was started as a keeper. No command line
// of the program is mistaken for that: argv[0] is checked, and the keeper's
// stdin is a pipe.
func IsKeeper(args []string) bool {
	if len(args) != 5 || args[0] != keeperName {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(0, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO
}

// KeeperMain is the keeper: it waits until the pipe on its stdin closes, which
// happens when the program that started it dies (a program that lives ends its
// keeper by SIGKILL), then kills what is left of the child's tree. It returns
// the exit status. Call it first thing in main when IsKeeper(os.Args).
func KeeperMain(args []string) int {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE)
	// Of the whole process, not of this thread (proc_pid_comm(5)).
	_ = os.WriteFile("/proc/self/comm", []byte(keeperName), 0)
	pid, err := strconv.Atoi(args[1])
	start, err2 := strconv.ParseUint(args[2], 10, 64)
	if err != nil || err2 != nil || pid <= 1 {
		return 2
	}
	h := &hunt{head: ident{pid, start}, mark: args[3], known: map[ident]bool{}, found: map[ident]bool{}}
	h.listen()
	left := h.run()
	say(h.report(args[4], left))
	return 0
}

// hunt kills the tree of a program that has died. Nobody pins the child's
// number any more and orphans go to a process that is not us, so the mark
// counts most here.
type hunt struct {
	head  ident
	mark  string
	known map[ident]bool // members told of, and everybody found
	found map[ident]bool // killed
}

// listen takes the members it is told of, a line "pid start" each, and returns
// when nobody holds the other end of stdin any more.
func (h *hunt) listen() {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var id ident
		if n, _ := fmt.Sscan(lines.Text(), &id.pid, &id.start); n == 2 && id.pid > 1 {
			h.known[id] = true
		}
	}
}

// run kills until nobody is found in several looks, and returns who is left.
func (h *hunt) run() (left []proc) {
	limit := time.Now().Add(huntTime)
	for calm := 0; calm < huntCalm && time.Now().Before(limit); {
		// The way down from the child first: quick, while it is still there.
		h.kill(h.members(allProcs(), false))
		left = h.members(allProcs(), true)
		h.kill(left)
		calm++
		if len(left) > 0 {
			calm = 0
		}
		time.Sleep(huntPause)
	}
	return left
}

func (h *hunt) kill(procs []proc) {
	for _, p := range procs {
		h.known[p.ident], h.found[p.ident] = true, true
		_ = signalProc(p.ident, unix.SIGKILL)
	}
}

// members finds the tree's living processes among procs. thorough looks into
// every environment for the mark.
func (h *hunt) members(procs []proc, thorough bool) []proc {
	recycled := false
	for _, p := range procs {
		recycled = recycled || p.pid == h.head.pid && p.start != h.head.start
	}
	isRoot := func(p proc) bool {
		switch {
		case p.ident == h.head, h.known[p.ident]:
			return true
		case !recycled && (p.pgrp == h.head.pid || p.session == h.head.pid):
			return true
		case !thorough:
			return false
		}
		mark, _ := readMark(p.pid)
		return mark == h.mark || mark == checkMark(h.mark)
	}
	self := os.Getpid()
	skip := func(p proc) bool { return p.pid == self || p.pid == 1 || p.start < h.head.start }
	return family(procs, isRoot, skip)
}

func (h *hunt) report(program string, left []proc) string {
	msg := fmt.Sprintf("tiproxy died; its child %s (pid %d): %d processes killed", program, h.head.pid, len(h.found))
	if len(left) > 0 {
		msg += fmt.Sprintf(", still there: pids %v", pidsOf(left))
	}
	return msg + "\n"
}

// say prints to stderr, unless nobody takes it.
func say(msg string) {
	printed := make(chan struct{})
	go printTo(msg, printed)
	select {
	case <-printed:
	case <-time.After(sayTime):
	}
}

func printTo(msg string, printed chan<- struct{}) {
	defer close(printed)
	_, _ = os.Stderr.WriteString(msg)
}
