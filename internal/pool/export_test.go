package pool

import "time"

// What tests outside the package may see of it.
const (
	ExitGrace   = exitGrace
	StableAfter = stableAfter
)

// Armed tells which timers a pool has armed: of the idle time, and of the end
// of the hold-back.
func (p *Pool) Armed() (idle, holdBack bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle != nil, p.retry != nil
}

// LateIdle returns what an idle timer does that has fired, and whose call
// comes so late that the pool is elsewhere by then. It is to be called while
// the timer is armed.
func (p *Pool) LateIdle() func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	return (&leaving{pool: p, run: p.run, why: ReasonIdle, timer: p.idle}).fire
}

// ArmsForWaiting tells whether the idle timer is armed although somebody waits,
// who was told that he is to look again but has not done so.
func (p *Pool) ArmsForWaiting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disarmLocked()
	p.waiting++
	p.settleLocked()
	p.waiting--
	armed := p.idle != nil
	p.settleLocked()
	return armed
}

// EndHoldBack is what the timer of a hold-back does when it fires.
func (p *Pool) EndHoldBack() { p.endHoldBack() }

// HoldBackTimer returns the timer that is armed for the end of the hold-back.
func (p *Pool) HoldBackTimer() *time.Timer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.retry
}

// Sources tells of how many sources starts are remembered.
func (p *Pool) Sources() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.wakes.by)
}
