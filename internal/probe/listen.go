package probe

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Listen recognises readiness by the kernel's tables of listening sockets: the
// child is ready when a process of its tree has a listening socket that serves
// Dest. It never connects.
//
// Where those tables or the owners of their sockets cannot be read at all, that
// is outside Linux, it connects as Dial does.
//
// A Listen serves one child at a time, and Wait may be called by several
// goroutines.
type Listen struct {
	Dest Dest

	// OnGuess, if set, is called at most once in the life of a Listen: when a
	// socket was taken for the child's although its owner could not be looked
	// up. msg says why, in one line. It is called from Wait, without a lock.
	OnGuess func(msg string)

	noNetlink bool // as if netlink were not to be had, for tests

	netlinkAnswers atomic.Bool // it did once, so it will again

	guessed sync.Once
	mu      sync.Mutex
	start   start
}

// start is what is known about the start under way.
type start struct {
	old  map[uint64]bool // inodes of the sockets that listened before the spawn
	uids map[int]bool    // users that the tree has or had
}

// pause returns how long to wait before the next look, when the last took cost
// and the first was elapsed ago. Most starts take tens of milliseconds, and
// every one of them is waited for by a client; one that takes longer may be
// noticed a little later. A look that is dear (no netlink, many sockets) is
// taken more seldom, so that waiting never costs more than a tenth of a core.
func pause(elapsed, cost time.Duration) time.Duration {
	p := 5 * time.Millisecond
	switch {
	case elapsed < 50*time.Millisecond:
		p = 200 * time.Microsecond
	case elapsed < time.Second:
		p = 500 * time.Microsecond
	case elapsed < 10*time.Second:
		p = 2 * time.Millisecond
	}
	return max(p, 9*cost)
}

// sleep waits for d and reports whether ctx still runs. t must be stopped or
// have been received from; see time.Timer.Reset.
func sleep(ctx context.Context, t *time.Timer, d time.Duration) bool {
	t.Reset(d)
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		t.Stop()
		return false
	}
}
