package proxy

import (
	"sync"
	"sync/atomic"
	"time"
)

// Quiet says what becomes of connections that carry no byte for a while. The
// zero Quiet leaves them alone.
type Quiet struct {
	// After is how long a connection must have carried no byte, in either
	// direction, with none on its way; 0 means never.
	After time.Duration
	// Close ends a quiet connection. Otherwise it stays, and just does not keep
	// the child awake until it carries a byte again.
	Close bool
}

// vigil watches one relay for quiet. A nil vigil watches nothing. Its lock is
// held across rest and rouse, to keep them in order; they may lock the pool,
// which calls nobody.
//
// last and resting are written by one side and read by the other, each its own
// first: whoever decides that a connection rests and whoever carries a byte at
// the same moment, one of them sees the other.
type vigil struct {
	quiet Quiet
	busy  func() bool // bytes are on their way
	end   func() bool // ends the connection, unless a byte has come
	rest  func()      // it does not keep the child awake from now on
	rouse func()      // it does

	born    time.Time
	last    atomic.Int64 // time of the last byte, since born
	resting atomic.Bool

	mu    sync.Mutex
	timer *time.Timer // nil once the watch is over
}

// begin starts the watch.
func (v *vigil) begin() {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.born = time.Now()
	v.timer = time.AfterFunc(v.quiet.After, v.look)
}

// over ends the watch.
func (v *vigil) over() {
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.timer != nil {
		v.timer.Stop()
		v.timer = nil
	}
}

// isResting reports whether the connection lets the child sleep.
func (v *vigil) isResting() bool { return v != nil && v.resting.Load() }

// touch notes that a byte was carried. It is called before the byte is handed
// on, so that the child is kept for it if it still can be.
func (v *vigil) touch() {
	if v == nil {
		return
	}
	v.last.Store(int64(time.Since(v.born)))
	if v.resting.Load() {
		v.awake()
	}
}

// awake ends a rest.
func (v *vigil) awake() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.resting.Load() {
		return
	}
	v.resting.Store(false)
	v.rouse()
	if v.timer != nil {
		v.timer.Reset(v.quiet.After)
	}
}

// look decides whether the connection is quiet. It is the timer's call.
func (v *vigil) look() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.timer == nil {
		return
	}
	switch left := v.quiet.After - v.silence(); {
	case left > 0:
		v.timer.Reset(left)
	case v.busy(), v.quiet.Close && !v.end():
		v.timer.Reset(max(v.quiet.After, busyPause))
	case !v.quiet.Close:
		v.restLocked()
	}
}

// busyPause is the least time between two looks at a connection that is stuck.
const busyPause = 50 * time.Millisecond

// silence is the time since the last byte.
func (v *vigil) silence() time.Duration {
	return time.Since(v.born) - time.Duration(v.last.Load())
}

// restLocked lets the connection rest, unless a byte has come just now.
func (v *vigil) restLocked() {
	v.resting.Store(true)
	if left := v.quiet.After - v.silence(); left > 0 {
		v.resting.Store(false)
		v.timer.Reset(left)
		return
	}
	v.rest()
}
