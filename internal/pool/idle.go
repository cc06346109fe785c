package pool

import "time"

// Hidden knows of connections to a life that are no leases: those that the
// kernel hands to the child by itself. The pool calls it without its lock held.
type Hidden interface {
	// Retire keeps new connections away from life gen and reports whether
	// nobody is connected to it. It may take its time; leases are granted
	// meanwhile. When the life is stopped for being idle thereafter, Return is
	// not called.
	Retire(gen uint64) (alone bool)
	// Return undoes Retire. The life may have ended since, or be about to.
	Return(gen uint64)
}

// Beside returns a lease that stands for all the hidden connections of life gen.
// It keeps the life awake, and counts neither as a connection nor as granted.
// There is none unless that life is ready at this moment.
func (p *Pool) Beside(gen uint64) (*Lease, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != Opened || p.quit || p.run.gen != gen {
		return nil, false
	}
	p.disarmLocked()
	p.run.leases++
	p.run.beside++
	return &Lease{pool: p, run: p.run, beside: true}, true
}

// idleAlarm is one arming of the idle timer.
type idleAlarm struct {
	pool  *Pool
	run   *run
	timer *time.Timer // written before the pool's mu is released, read under it
}

// fire leaves opened if nobody came since the timer was armed, and nobody is
// hidden. Between the word of Hidden that nobody is and the decision nobody can
// hide, so that the decision is one step for hidden connections too.
func (a *idleAlarm) fire() {
	h := a.pool.cfg.Hidden
	if h == nil {
		a.leave(true)
		return
	}
	for next := a; next != nil && next.begin(); next = next.pool.endRetirement() {
		if next.leave(h.Retire(next.run.gen)) {
			return
		}
		h.Return(next.run.gen)
	}
}

// begin reports whether Hidden is to be asked for this alarm. It is asked for
// one alarm at a time: the Return of one must not undo the Retire of another.
func (a *idleAlarm) begin() bool {
	p := a.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !a.dueLocked():
		return false
	case p.retiring:
		p.missed = a
		return false
	}
	p.retiring = true
	return true
}

// endRetirement notes that Hidden was told Return, and hands over the alarm
// that has fired meanwhile.
func (p *Pool) endRetirement() *idleAlarm {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.missed
	p.retiring, p.missed = false, nil
	p.changeLocked() // Shutdown waits for it
	return next
}

// leave decides. If somebody is hidden, the idle time runs anew.
func (a *idleAlarm) leave(alone bool) bool {
	p := a.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if !a.dueLocked() {
		return false
	}
	if !alone {
		p.idle = nil
		p.settleLocked()
		return false
	}
	p.retiring, p.missed = false, nil
	p.leaveLocked(ReasonIdle)
	return true
}

// dueLocked reports whether the alarm still counts. Whoever disarms a timer
// that has already fired has taken it out of the pool, which is how a call
// finds out that it is late.
func (a *idleAlarm) dueLocked() bool {
	p := a.pool
	return p.idle == a.timer && p.run == a.run && p.state == Opened && p.run.leases == 0 && p.waiting == 0
}
