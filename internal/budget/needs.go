package budget

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"tiproxy/internal/pool"
)

// escortPause is how long an escort waits after it could not have what it
// escorts. The pool's own pause between starts that fail comes on top.
const escortPause = time.Second

// NeedError is why a service was not started: another one, which it needs, could
// not be had.
type NeedError struct {
	Service, Need string
	Err           error
}

// Error returns the reason, as people read it.
func (e *NeedError) Error() string {
	return fmt.Sprintf("service %q needs %q: %v", e.Service, e.Need, e.Err)
}

// Unwrap returns the reason.
func (e *NeedError) Unwrap() error { return e.Err }

// needError says whose fault an error of Keep is, unless the caller has left.
func (m *Member) needError(ctx context.Context, n *Member, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return &NeedError{Service: m.name, Need: n.name, Err: err}
}

// awaitOther waits until a need is none any more, as another one of its name has
// taken its place, or none has. It returns ctx's cause if that is done first, and
// pool.ErrShutdown if nothing can change any more.
func (m *Member) awaitOther(ctx context.Context, need *Member) error {
	l := m.ledger
	for {
		l.mu.Lock()
		is, final, planned := slices.Contains(m.needs, need), l.closed || m.removed, l.planned
		l.mu.Unlock()
		switch {
		case !is:
			return nil
		case final:
			return pool.ErrShutdown
		}
		select {
		case <-planned:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// escort keeps a need awake for one life of the member, and has it started again
// if it ends. It ends with ctx, or when the need is gone for good.
func (m *Member) escort(ctx context.Context, need *Member) {
	for ctx.Err() == nil {
		need.count(&need.calling, 1)
		l, err := need.Keep(ctx, pool.Caller{Name: m.name})
		need.count(&need.calling, -1)
		switch {
		case err == nil:
			need.keep(ctx, l)
		case errors.Is(err, pool.ErrShutdown):
			return
		default:
			pause(ctx, escortPause)
		}
	}
}

// keep holds a lease of an escort until ctx is done or the life is over.
func (m *Member) keep(ctx context.Context, l *pool.Lease) {
	m.count(&m.kept, 1)
	select {
	case <-ctx.Done():
	case <-l.Done():
	}
	m.count(&m.kept, -1)
	m.pool.Put(l)
}

// count adds to a number of escorts.
func (m *Member) count(of *int, n int) {
	m.ledger.mu.Lock()
	defer m.ledger.mu.Unlock()
	*of += n
	m.ledger.ringLocked() // whoever needs it may have become somebody who can be put to sleep
}

// pause returns after d, or when ctx is done.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// wakeAlong starts another member if there is room for it at this moment: it
// takes nobody's place, neither that of one who sleeps soon nor in the queue.
// It ends when the other is ready, with ctx at the latest.
func (m *Member) wakeAlong(ctx context.Context, other *Member) {
	if !other.slipIn() {
		m.ledger.log.Info("not woken along: there is no room", "service", other.name, "with", m.name)
		return
	}
	defer other.depart()
	l, err := other.lease(ctx, pool.Caller{Name: m.name}, other.pool.Keep) // it is no connection
	if err == nil {
		other.pool.Put(l)
	} // else the pool has told what there is to tell
}

// slipIn is admit for somebody who does not wait.
func (m *Member) slipIn() bool {
	l := m.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || m.removed {
		return false
	}
	wants, settled := m.wantsLocked()
	if !settled || !l.waitedLocked().passes(wants) || !l.fitsLocked(wants) {
		return false
	}
	m.gets++
	l.activateLocked(m)
	return true
}
