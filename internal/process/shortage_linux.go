package process

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tiproxy/internal/pool"
)

const (
	shortPauseMin = 10 * time.Millisecond  // before a start is tried again
	shortPauseMax = 500 * time.Millisecond // it doubles up to this
)

// errUnseen: a child was started and could not be identified, so it was ended
// again.
var errUnseen = fmt.Errorf("identify the child: %w", unix.EMFILE)

// Start spawns the child and its keeper. It returns the prober's error when that
// sees no sense in a start, ErrHostClosed, or the kernel's error with a hint.
// When the machine lacks processes, descriptors or memory it waits for them,
// until ctx ends: that is no fault of the child, whose clients can wait.
func (r *Resource) Start(ctx context.Context, gen uint64) (pool.Life, error) {
	var short scarcity
	for {
		l, err := r.try(ctx, gen)
		if err == nil || !isShortage(err) {
			short.over(r)
			if err != nil {
				return nil, err
			}
			return l, nil
		}
		if !short.wait(ctx, r, err) {
			return nil, err
		}
	}
}

// try starts the child once. In a shortage of descriptors it is tried again
// at once with the reserve, which the child's first moments may need as well.
func (r *Resource) try(ctx context.Context, gen uint64) (*life, error) {
	defer spare.ensure(reserveSize)()
	return r.start(ctx, gen)
}

// scarcity is a time in which a start waits for what the machine lacks. It is
// told with one line when it begins and one when it is over.
type scarcity struct {
	since time.Time // zero unless one is under way
	pause time.Duration
}

// wait notes that there was a shortage and waits a little. It reports whether
// ctx still runs.
func (s *scarcity) wait(ctx context.Context, r *Resource, err error) bool {
	if s.since.IsZero() {
		s.since = time.Now()
		r.log.Warn("start waits", "service", r.cmd.Service, "err", err)
	}
	s.pause = min(max(2*s.pause, shortPauseMin), shortPauseMax)
	timer := time.NewTimer(s.pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// over tells the end of a shortage, if there was one.
func (s *scarcity) over(r *Resource) {
	if !s.since.IsZero() {
		r.log.Info("start goes on", slog.String("service", r.cmd.Service), slog.Duration("after", time.Since(s.since)))
	}
}

// sureThreads is how many threads may be blocked in system calls at the same
// time: the waits for the child, signals and output, and reads of /proc.
const sureThreads = 8

// warmThreads makes the runtime start the threads that it may ever need. It
// keeps those it has, and ends the program when it needs one and the machine
// has no more processes (newosproc in the runtime's os_linux.go).
func warmThreads() {
	n := runtime.GOMAXPROCS(0) + sureThreads
	var there, done sync.WaitGroup
	there.Add(n)
	done.Add(n)
	for range n {
		go occupyThread(&there, &done)
	}
	done.Wait()
}

// occupyThread holds a thread until all others have one, too.
func occupyThread(there, done *sync.WaitGroup) {
	defer done.Done()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	there.Done()
	there.Wait()
}
