package proxy

import (
	"container/list"
	"context"
	"sync"
)

// places are a number of things that can be taken and given back, first come,
// first served. The number may change, and be smaller than what is taken; 0 means
// that there are always enough.
type places struct {
	mu    sync.Mutex
	limit int
	taken int
	queue list.List // of chan struct{}, closed for whoever has got a place
}

// setLimit changes how many there are.
func (p *places) setLimit(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = n
	p.giveLocked()
}

// most is how many there are.
func (p *places) most() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limit
}

// tryTake takes a place if there is one.
func (p *places) tryTake() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tryLocked()
}

func (p *places) tryLocked() bool {
	if p.queue.Len() > 0 || !p.leftLocked() {
		return false
	}
	p.taken++
	return true
}

func (p *places) leftLocked() bool { return p.limit == 0 || p.taken < p.limit }

// take waits for a place. It reports false when ctx ends first.
func (p *places) take(ctx context.Context) bool {
	p.mu.Lock()
	if p.tryLocked() {
		p.mu.Unlock()
		return true
	}
	got := make(chan struct{})
	me := p.queue.PushBack(got)
	p.mu.Unlock()
	select {
	case <-got:
		return true
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-got:
		return true // at the same moment
	default:
		p.queue.Remove(me)
		return false
	}
}

// free gives a place back.
func (p *places) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	p.giveLocked()
}

// giveLocked gives what is left to those who wait.
func (p *places) giveLocked() {
	for p.queue.Len() > 0 && p.leftLocked() {
		p.taken++
		close(p.queue.Remove(p.queue.Front()).(chan struct{}))
	}
}
