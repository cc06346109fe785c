package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"tiproxy/internal/pool"
)

// holds keep a service's child awake for a time that somebody has asked for:
// one at most, which is a lease of the pool, taken again when the child has
// ended by itself. The zero value holds nothing.
type holds struct {
	// keep takes a lease, starting the child if need be.
	keep func(ctx context.Context) (*pool.Lease, error)
	put  func(*pool.Lease)
	// told is told that a hold has begun, and, with a zero time and why, that the
	// last one is over.
	told func(until time.Time, why string)

	mu      sync.Mutex
	current *held // nil = none
	closed  bool
	running sync.WaitGroup
}

// held is one hold, and the goroutine that keeps it.
type held struct {
	until time.Time
	end   context.CancelFunc
	prev  *held      // which it replaces: it ends when this one has its lease
	first chan error // how the first start ended
}

// hold keeps the child awake for d from now on, instead of an older hold, and
// waits until it is ready. When ctx ends first, the hold stays. It is no hold if
// the child could not be started.
func (h *holds) hold(ctx context.Context, d time.Duration) error {
	until := time.Now().Add(d)
	life, end := context.WithDeadline(context.Background(), until)
	one := &held{until: until, end: end, first: make(chan error, 1)}
	if !h.replace(one) {
		end()
		return pool.ErrShutdown
	}
	h.told(until, "")
	go h.carry(life, one)
	select {
	case err := <-one.first:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// replace makes one the hold there is, unless close was called.
func (h *holds) replace(one *held) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	one.prev, h.current = h.current, one
	h.running.Add(1)
	return true
}

// carry is the life of one hold. It ends with its time, or when it is released,
// or replaced by one that has its lease.
func (h *holds) carry(life context.Context, one *held) {
	defer h.running.Done()
	defer one.end()
	lease, err := h.keep(life)
	if one.prev != nil {
		one.prev.end()
		one.prev = nil
	}
	one.first <- err
	for err == nil {
		select {
		case <-life.Done():
		case <-lease.Done():
		}
		h.put(lease)
		if err = life.Err(); err == nil {
			lease, err = h.again(life)
		}
	}
	why := "over"
	if life.Err() == nil {
		why = "the child could not be started"
	}
	h.forget(one, why)
}

// again takes a lease on the next life. How soon after a failure that is
// started is the pool's business.
func (h *holds) again(life context.Context) (*pool.Lease, error) {
	for {
		lease, err := h.keep(life)
		var failed *pool.StartError
		if !errors.As(err, &failed) {
			return lease, err
		}
	}
}

// forget takes note of the end of a hold.
func (h *holds) forget(one *held, why string) {
	h.mu.Lock()
	last := h.current == one
	if last {
		h.current = nil
	}
	h.mu.Unlock()
	if last {
		h.told(time.Time{}, why)
	}
}

// release ends the hold, if there is one.
func (h *holds) release(why string) {
	h.mu.Lock()
	one := h.current
	h.mu.Unlock()
	if one == nil {
		return
	}
	h.forget(one, why)
	one.end()
}

// until is when the hold is over, zero without one.
func (h *holds) until() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current == nil {
		return time.Time{}
	}
	return h.current.until
}

// close ends the hold and waits for that.
func (h *holds) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.release("tiproxy stops")
	h.running.Wait()
}
