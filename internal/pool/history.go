package pool

import "time"

// How much of the past is kept.
const (
	keptChanges = 256
	keptStarts  = 32
)

// History is a copy of what a pool remembers of its past, for display only,
// oldest first: the last 256 changes of state and the last 32 starts that have
// come to an end.
type History struct {
	Changes []Change
	Starts  []Start
}

// Change is one change of a pool's state.
type Change struct {
	At     time.Time
	State  State  // from then on
	Gen    uint64 // the life to which it happened
	Who    string // who woke that life
	Reason Reason // why that life is being stopped, or has ended; empty before
}

// Start is the outcome of one start.
type Start struct {
	At   time.Time // when it began
	Gen  uint64
	Who  string        // who caused it
	Took time.Duration // until the outcome
	Err  error         // nil: it became ready; a Reason: it was given up for that; otherwise why it failed
}

// History returns a copy of what is remembered.
func (p *Pool) History() History {
	p.mu.Lock()
	defer p.mu.Unlock()
	return History{Changes: p.history.changes.list(), Starts: p.history.starts.list()}
}

// history is what a pool remembers. It is guarded by the pool's mu.
type history struct {
	changes ring[Change]
	starts  ring[Start]
}

// change notes a change of state.
func (h *history) change(s State, r *run, now time.Time) {
	h.changes.add(Change{At: now, State: s, Gen: r.gen, Who: r.who, Reason: r.reason}, keptChanges)
}

// start notes the outcome of a start.
func (h *history) start(r *run, err error) {
	h.starts.add(Start{At: r.started, Gen: r.gen, Who: r.who, Took: time.Since(r.started), Err: err}, keptStarts)
}

// ring keeps the newest values of many.
type ring[T any] struct {
	values []T
	oldest int // where the next one goes once the ring is full
}

func (r *ring[T]) add(v T, most int) {
	if len(r.values) < most {
		r.values = append(r.values, v)
		return
	}
	r.values[r.oldest] = v
	r.oldest = (r.oldest + 1) % most
}

// list returns a copy, oldest first.
func (r *ring[T]) list() []T {
	return append(append([]T(nil), r.values[r.oldest:]...), r.values[:r.oldest]...)
}
