package pool

import "time"

// Caller is who asks for a lease.
type Caller struct {
	// Name is for the log.
	Name string
	// Source is the network the caller comes from, for WakeRate. Callers
	// without one may always start a life.
	Source string
	// Held, if set, is called once if the caller may not start a life before
	// that moment because its source has started too many. It is called
	// without the lock held and must not block.
	Held func(until time.Time)
}

// Rate is a number of events in any stretch of time of that length. The zero
// Rate is no limit.
type Rate struct {
	N   int
	Per time.Duration
}

// wakes remembers which source has started a life when. It is guarded by the
// pool's mu. It holds no more than the starts of the last Per, and these are as
// rare as starts are.
type wakes struct {
	rate Rate
	by   map[string][]time.Time // the newest N starts of each source, oldest first
}

// next returns when a source may start a life; a moment that has passed means
// now.
func (w *wakes) next(source string) time.Time {
	past := w.by[source]
	if source == "" || w.rate.N == 0 || len(past) < w.rate.N {
		return time.Time{}
	}
	return past[len(past)-w.rate.N].Add(w.rate.Per)
}

// limit changes the rate. Starts that the old one had no need to remember do
// not count.
func (w *wakes) limit(rate Rate) {
	w.rate = rate
	if rate.N == 0 {
		w.by = nil
	}
}

// record notes a start, and forgets what cannot matter any more.
func (w *wakes) record(source string, now time.Time) {
	if source == "" || w.rate.N == 0 {
		return
	}
	for s, past := range w.by {
		if now.Sub(past[len(past)-1]) >= w.rate.Per {
			delete(w.by, s)
		}
	}
	if w.by == nil {
		w.by = make(map[string][]time.Time)
	}
	past := append(w.by[source], now)
	w.by[source] = past[max(0, len(past)-w.rate.N):]
}

// Rest says that the lease, although it is held on, does not keep its life
// awake: the connection behind it is quiet. Rouse ends that. Neither changes
// anything about a lease that was given back, or stands for no connection.
func (l *Lease) Rest() {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.back || l.resting || l.as != connection {
		return
	}
	l.resting = true
	l.run.leases--
	l.run.resting++
	p.settleLocked()
}

// Rouse makes a lease count again. If it was decided meanwhile to stop the
// life, that stop goes on.
func (l *Lease) Rouse() {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.back || !l.resting {
		return
	}
	l.resting = false
	l.run.resting--
	l.run.leases++
	if p.run == l.run {
		p.disarmLocked()
		p.vacant = time.Time{}
	}
}
