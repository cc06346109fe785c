package process

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// reserveSize is how many descriptors are held for a start: /dev/null, two
// output pipes and the pipe and pidfd of the spawn (8), the keeper's pipe,
// /dev/null and spawn (6), and at the same time the probe's netlink socket and
// a directory and a file of /proc, for it and for the tree (5).
const reserveSize = 20

// reserveShare is the largest part of all descriptors that is held in reserve,
// also when their limit is lowered later: a tenth.
const reserveShare = 10

// spare is this program's reserve. It is empty unless there is a Host.
var spare reserve

// reserve is descriptors that are held for nothing but to be given up when there
// are no others: whoever waits for clients takes all it can get, and what it
// takes last must not be what the next start needs. They are opened early, so
// that they have low numbers and count even when the limit is lowered below
// what is in use (RLIMIT_NOFILE in getrlimit(2) is one more than the highest).
type reserve struct {
	// misses counts what could not be opened in spite of the reserve. Who
	// looks at many files and finds it changed has not seen everything.
	misses atomic.Uint64

	mu        sync.Mutex
	size      int
	held      []int
	borrowers int
}

// open fills the reserve for the first time, close empties it for good.
func (r *reserve) open(size int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size = size
	r.fillLocked()
}

func (r *reserve) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size = 0
	r.dropLocked(len(r.held))
}

// wantLocked is how many are to be held under the present limit.
func (r *reserve) wantLocked() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return r.size
	}
	return int(min(uint64(r.size), limit.Cur/reserveShare))
}

// fillLocked takes what there is. They are opened, not duplicated, so that they
// count in the table of the whole system as well (ENFILE).
func (r *reserve) fillLocked() {
	want := r.wantLocked()
	r.dropLocked(len(r.held) - want)
	for len(r.held) < want {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return
		}
		r.held = append(r.held, fd)
	}
}

func (r *reserve) dropLocked(n int) {
	for range max(0, min(n, len(r.held))) {
		last := len(r.held) - 1
		unix.Close(r.held[last])
		r.held = r.held[:last]
	}
}

// borrow gives n descriptors up, all that are left if there are fewer. They are
// taken back when every borrower has called giveBack.
func (r *reserve) borrow(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.borrowers++
	r.dropLocked(n)
}

// join borrows the reserve if somebody else has: what is to be had then may be
// nothing but that.
func (r *reserve) join() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.borrowers == 0 {
		return false
	}
	r.borrowers++
	return true
}

func (r *reserve) giveBack() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.borrowers--; r.borrowers == 0 {
		r.fillLocked()
	}
}

// refill takes what came free since the last giveBack.
func (r *reserve) refill() {
	r.borrow(0)
	r.giveBack()
}

// ensure borrows the reserve unless there are n descriptors to be had without
// it. The function it returns gives it back.
func (r *reserve) ensure(n int) (giveBack func()) {
	if r.join() {
		return r.giveBack
	}
	fds := make([]int, 0, n)
	for range n {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		fds = append(fds, fd)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	if len(fds) == n {
		return func() {}
	}
	r.borrow(reserveSize)
	return r.giveBack
}

// openFile opens a file for reading, with the reserve's help if that is needed.
// What could not be opened for want of a descriptor counts as a miss.
func openFile(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != unix.EMFILE && err != unix.ENFILE {
		return fd, err
	}
	spare.borrow(2)
	defer spare.giveBack()
	for range 3 { // somebody else may be quicker
		if fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			return fd, nil
		}
	}
	spare.misses.Add(1)
	return -1, err
}

// isShortage reports whether err means that the machine lacks what a start
// takes: processes (EAGAIN of clone(2), and of execve(2) for another user),
// descriptors or memory. It comes back by itself.
func isShortage(err error) bool {
	for _, e := range []syscall.Errno{unix.EAGAIN, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
