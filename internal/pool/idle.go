package pool

import "time"

// Hidden knows of connections to a life that are no leases: those that the
// kernel hands to the child by itself. The pool calls it without its lock held.
type Hidden interface {
	// Retire keeps new connections away from life gen and reports whether
	// nobody is connected to it. It may take its time; leases are granted
	// meanwhile. Who is connected when a stop was asked for counts only by the
	// lease that Beside has given before Retire returns. When the life is stopped
	// because nobody is connected thereafter, Return is not called.
	Retire(gen uint64) (alone bool)
	// Return undoes Retire. The life may have ended since, or be about to.
	Return(gen uint64)
}

// Beside returns a lease that stands for all the hidden connections of life gen.
// It keeps the life awake, and counts neither as a connection nor as granted.
// There is none unless that life is ready at this moment. A life that takes
// nobody any more has one all the same: who is hidden was there before.
func (p *Pool) Beside(gen uint64) (*Lease, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != Opened || p.quit || p.run.gen != gen {
		return nil, false
	}
	return p.leaseLocked(hidden), true
}

// armLocked has the idle time end the life that nobody uses, as it is
// configured now.
func (p *Pool) armLocked() {
	p.stopTimerLocked()
	if p.cfg.Idle == 0 {
		return
	}
	l := &leaving{pool: p, run: p.run, why: ReasonIdle}
	l.timer = time.AfterFunc(time.Until(p.idleEndLocked()), l.fire)
	p.idle = l.timer
}

// idleEndLocked is when the idle time of a life that nobody uses is over.
func (p *Pool) idleEndLocked() time.Time {
	end, old := p.unused.Add(p.cfg.Idle), p.run.opened.Add(p.cfg.MinUptime)
	if old.After(end) {
		return old
	}
	return end
}

// disarmLocked notes that the life is in use, or ends.
func (p *Pool) disarmLocked() {
	p.stopTimerLocked()
	p.unused = time.Time{}
}

func (p *Pool) stopTimerLocked() {
	if p.idle != nil {
		p.idle.Stop()
		p.idle = nil
	}
}

// leaving is one attempt to leave opened because nobody uses the life.
type leaving struct {
	pool  *Pool
	run   *run
	why   Reason
	timer *time.Timer // whose attempt it is, nil for TryStop; written before the pool's mu is released, read under it
}

// fire is what the idle timer does.
func (l *leaving) fire() { l.pool.goOn(l) }

// goOn makes an attempt, and reports whether the life was left. Between the word
// of Hidden that nobody is there and the decision nobody can hide, so that the
// decision is one step for hidden connections too.
func (p *Pool) goOn(l *leaving) bool {
	if p.hidden == nil {
		return l.leave(true)
	}
	if !l.begin() {
		return false
	}
	if l.leave(p.hidden.Retire(l.run.gen)) {
		return true
	}
	p.hidden.Return(l.run.gen)
	p.endRetirement()
	return false
}

// begin reports whether Hidden is to be asked for this attempt. It is asked for
// one at a time: the Return of one must not undo the Retire of another.
func (l *leaving) begin() bool {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !l.dueLocked():
		return false
	case p.retiring:
		if l.timer != nil {
			p.missed = l
		}
		return false
	}
	p.retiring = true
	return true
}

// endRetirement notes that Hidden was told Return. An idle timer that has fired
// meanwhile and still counts does so again: its attempt is its own, of whatever
// life it is.
func (p *Pool) endRetirement() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if missed := p.missed; missed != nil && p.idle == missed.timer {
		missed.timer.Reset(0)
	}
	p.retiring, p.missed = false, nil
	p.changeLocked() // Shutdown waits for it, and Stop
}

// leave decides. If somebody is hidden, the idle time runs anew.
func (l *leaving) leave(alone bool) bool {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if !alone {
		if p.run == l.run && !p.unused.IsZero() { // also if another timer runs by now
			p.unused = time.Now()
			p.armLocked()
		}
		return false
	}
	if !l.dueLocked() {
		return false
	}
	p.retiring, p.missed = false, nil
	p.leaveLocked(l.why)
	return true
}

// dueLocked reports whether the attempt still counts: nobody uses the life.
// Whoever disarms a timer that has already fired has taken it out of the pool,
// which is how a call finds out that it is late.
func (l *leaving) dueLocked() bool {
	p := l.pool
	if p.run != l.run || !p.takesLocked() || p.run.leases > 0 || p.waiting > 0 {
		return false
	}
	if l.timer != nil {
		return p.idle == l.timer
	}
	return time.Since(p.run.opened) >= p.cfg.MinUptime
}
