package process

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Host starts and reaps every process of this program. It makes the program
// the reaper of all descendants that lose their parents
// (PR_SET_CHILD_SUBREAPER(2const)), which PID 1 is anyway.
//
// Whoever starts processes by other means in the same program, with os/exec
// say, must wait for them at once: what Host did not start and nobody waits
// for within a second is reaped.
type Host struct {
	log  *slog.Logger
	self proc
	name string // our part of every mark, see instance

	jobs    chan func() // run by the one thread that starts and reaps
	quit    chan struct{}
	done    chan struct{}
	sigchld chan os.Signal
	sigpipe chan os.Signal

	// Used by the thread only.
	reaper  int                 // whether we were the reaper of orphans before
	zombies map[ident]time.Time // of our own process group, first seen then
	again   *time.Timer         // looks at children once more

	mu    sync.Mutex
	own   map[int]*spawned // started by us, not yet reaped
	seq   uint64           // odd while a start is under way
	event chan struct{}    // closed and replaced at every child event
	trees map[*tree]bool   // of living lives
}

// spawned is a process that Host started.
type spawned struct {
	auto bool          // reaped by Host when it ends; otherwise by Host.bury
	gone chan struct{} // closed when reaped
}

// hostTaken guards the process-wide facts that a Host stands for.
var hostTaken atomic.Bool

// NewHost prepares the program for children: it becomes the reaper of orphans,
// survives writing to a closed pipe (SIGPIPE, also on stdout, is turned into
// the write error EPIPE), and every descriptor it was started with beyond
// stderr becomes close-on-exec. There can be one Host at a time.
func NewHost(opts Options) (*Host, error) {
	if !hostTaken.CompareAndSwap(false, true) {
		return nil, errors.New("this program has a process host already")
	}
	h := &Host{
		log:     opts.Log,
		jobs:    make(chan func()),
		quit:    make(chan struct{}),
		done:    make(chan struct{}),
		sigchld: make(chan os.Signal, 1),
		sigpipe: make(chan os.Signal, 1),
		zombies: map[ident]time.Time{},
		again:   time.NewTimer(time.Hour),
		own:     map[int]*spawned{},
		event:   make(chan struct{}),
		trees:   map[*tree]bool{},
	}
	h.again.Stop()
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if err := h.prepare(); err != nil {
		hostTaken.Store(false)
		return nil, err
	}
	warmThreads()
	spare.open(reserveSize)
	go h.serve()
	return h, nil
}

func (h *Host) prepare() error {
	self, ok := readProc(os.Getpid())
	if !ok {
		h.log.Warn("/proc cannot be read: the child's own processes cannot be followed")
		self = proc{ident: ident{pid: os.Getpid()}, pgrp: unix.Getpgrp()}
	}
	h.self, h.name = self, instance(self.ident)
	if err := h.becomeReaper(); err != nil {
		return fmt.Errorf("become the reaper of orphans: prctl: %w", err)
	}
	closeOnExec()
	// An ignored SIGPIPE is as good as a caught one, and it is inherited.
	if !signal.Ignored(unix.SIGPIPE) {
		signal.Notify(h.sigpipe, unix.SIGPIPE)
	}
	signal.Notify(h.sigchld, unix.SIGCHLD)
	return nil
}

func (h *Host) becomeReaper() error {
	var before int32
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&before)), 0, 0, 0)
	if err != nil {
		return err
	}
	h.reaper = int(before)
	return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
}

// closeOnExec marks what we were started with (the runtime's own descriptors
// are marked already) by close_range(2), or one by one before Linux 5.11.
func closeOnExec() {
	if unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	for _, fd := range numericNames("/proc/self/fd") {
		if fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// Close ends the Host. It is for the program's end, when all lives are gone.
func (h *Host) Close() {
	select {
	case <-h.quit:
	default:
		close(h.quit)
	}
	<-h.done
}

// serve is the one thread that starts and reaps. It stays on its thread because
// the kernel sends Pdeathsig when the thread that started a child ends
// (PR_SET_PDEATHSIG(2const)), not when the program does.
func (h *Host) serve() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer func() {
		signal.Stop(h.sigchld)
		signal.Stop(h.sigpipe)
		h.again.Stop()
		spare.close()
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, uintptr(h.reaper), 0, 0, 0)
		hostTaken.Store(false)
		close(h.done)
	}()
	h.reap()
	for {
		select {
		case job := <-h.jobs:
			job()
		case <-h.sigchld:
			h.reap()
		case <-h.again.C:
			h.reap()
		case <-h.quit:
			return
		}
	}
}

// do has job run by the thread and returns when it has; false after Close.
func (h *Host) do(job func()) bool {
	finished := make(chan struct{})
	select {
	case h.jobs <- func() { defer close(finished); job() }:
		<-finished
		return true
	case <-h.done:
		return false
	}
}

// spawn starts a process. auto: it is reaped without anybody asking for its
// status; otherwise bury must be called.
func (h *Host) spawn(path string, args []string, attr *syscall.ProcAttr, auto bool) (pid int, s *spawned, err error) {
	job := func() {
		h.bumpSeq()
		defer h.bumpSeq()
		if attr.Sys != nil && attr.Sys.Credential != nil {
			defer h.disinherit()()
		}
		pid, _, err = syscall.StartProcess(path, args, attr)
		if err != nil {
			return
		}
		s = &spawned{auto: auto, gone: make(chan struct{})}
		h.mu.Lock()
		h.own[pid] = s
		h.mu.Unlock()
	}
	if !h.do(job) {
		return 0, nil, ErrHostClosed
	}
	return pid, s, err
}

func (h *Host) bumpSeq() {
	h.mu.Lock()
	h.seq++
	h.mu.Unlock()
}

// bury reaps a process that has ended and was not started with auto, and with
// it everything that died before.
func (h *Host) bury(pid int) {
	h.do(func() {
		var ws unix.WaitStatus
		for {
			if _, err := unix.Wait4(pid, &ws, 0, nil); err != unix.EINTR {
				break
			}
		}
		h.forget(pid)
		h.reap()
	})
}

func (h *Host) forget(pid int) {
	h.mu.Lock()
	s := h.own[pid]
	delete(h.own, pid)
	h.mu.Unlock()
	if s != nil {
		close(s.gone)
	}
}

// reap takes the status of every dead child that is nobody's: orphans that came
// to us, and auto ones. Each is asked for by its pid.
func (h *Host) reap() {
	blind := spare.misses.Load()
	kids := h.children()
	pending := blind != spare.misses.Load() // then somebody may be missing
	for _, pid := range kids {
		h.mu.Lock()
		s := h.own[pid]
		h.mu.Unlock()
		switch {
		case s != nil && !s.auto:
		case s == nil && h.spare(pid, &pending):
		default:
			var ws unix.WaitStatus
			if n, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil); err == nil && n == pid && s != nil {
				h.forget(pid)
			}
		}
	}
	if pending {
		h.again.Reset(zombieGrace)
	} else {
		clear(h.zombies)
	}
	h.broadcast()
}

// zombieGrace is how long a dead child of our own process group is left to
// somebody else in this program who may have started it and waits for it.
const zombieGrace = time.Second

// spare reports whether a child that we did not start is to be left alone now.
func (h *Host) spare(pid int, pending *bool) bool {
	p, ok := readProc(pid)
	switch {
	case !ok:
		return false
	case p.alive():
		return true // it may end at any moment, which SIGCHLD tells
	case p.pgrp != h.self.pgrp:
		return false
	}
	first, seen := h.zombies[p.ident]
	if !seen {
		first = time.Now()
		h.zombies[p.ident] = first
	}
	if time.Since(first) < zombieGrace {
		*pending = true
		return true
	}
	return false
}

// hidden visits the orphans that came to us and that /proc does not show,
// because they are another user's (hidepid in proc(5)), and returns how many
// there are. visit runs on our thread: nothing is reaped meanwhile, so their
// numbers are theirs. Whose they are cannot be told, so none is visited in PID 1
// or beside another tree.
func (h *Host) hidden(visit func(pid int)) (n int) {
	h.do(func() {
		if h.isInit() || h.countTrees() > 1 || !listsChildren() {
			return
		}
		for _, pid := range childrenOf(h.self.pid) {
			blind := spare.misses.Load()
			if _, visible := readProc(pid); visible || h.owns(pid) {
				continue
			}
			if blind != spare.misses.Load() {
				continue // it was not looked at
			}
			n++
			visit(pid)
		}
	})
	return n
}

func (h *Host) countTrees() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.trees)
}

func (h *Host) owns(pid int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.own[pid] != nil
}

// children lists our children, also on kernels that do not list them for us.
func (h *Host) children() []int {
	if listsChildren() {
		return childrenOf(h.self.pid)
	}
	var kids []int
	for _, p := range allProcs() {
		if p.ppid == h.self.pid {
			kids = append(kids, p.pid)
		}
	}
	return kids
}

// listsChildren tells whether the kernel was built with CONFIG_PROC_CHILDREN.
var listsChildren = sync.OnceValue(func() bool {
	path := "/proc/self/task/" + strconv.Itoa(os.Getpid()) + "/children"
	return unix.Access(path, unix.R_OK) == nil
})

func (h *Host) broadcast() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.event)
	h.event = make(chan struct{})
}

// events returns a channel that is closed when a child of ours ends or comes to
// us as an orphan and ends, after it was reaped if that was ours to do.
func (h *Host) events() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.event
}

// steady runs scan and returns the pids that are ours by our own start. A start
// in between would make a process of ours look like an orphan, so it scans
// again then; known is false when there was no quiet moment.
func (h *Host) steady(scan func()) (own map[int]bool, known bool) {
	for range 100 {
		before := h.seqWhenIdle()
		scan()
		h.mu.Lock()
		if h.seq == before {
			own = make(map[int]bool, len(h.own))
			for pid := range h.own {
				own[pid] = true
			}
		}
		h.mu.Unlock()
		if own != nil {
			return own, true
		}
	}
	return nil, false
}

func (h *Host) seqWhenIdle() uint64 {
	for {
		h.mu.Lock()
		seq := h.seq
		h.mu.Unlock()
		if seq%2 == 0 || !h.do(func() {}) {
			return seq
		}
	}
}

// ownGroup reports whether a child shares our process group: then it was not
// the tree of a child of ours that it came from.
func (h *Host) ownGroup(p proc) bool { return p.pgrp == h.self.pgrp }

// isInit: everybody's orphans come to us, not only those of our trees.
func (h *Host) isInit() bool { return h.self.pid == 1 }
