package budget

import (
	"context"
	"errors"
	"slices"
	"time"

	"tiproxy/internal/pool"
)

// Member is one service. It is to its clients what its pool is, but that a start
// waits for room and for the services that it needs. Nothing else may call its
// pool's Get and Keep, and its pool's events must all be told to Event. Its
// methods are safe for concurrent use.
type Member struct {
	ledger *Ledger
	name   string
	pool   Pool

	// The fields below are guarded by the ledger's mu.
	terms   Terms
	needs   []*Member // in the order in which they are started
	wake    []*Member
	removed bool
	party   *party // those who wait for room for it; nil if nobody does

	active  bool                           // somebody is between Get's letting in and its return, or a life exists
	gets    int                            // of those
	newest  uint64                         // life that is known to have begun
	gone    uint64                         // newest life of which nothing is left
	pins    int                            // active members that need it, directly or not
	pinned  []*Member                      // whom it needs itself: while it is active their room is held
	kept    int                            // leases of Keep that escorts have on its pool
	calling int                            // escorts that wait for such a lease
	ending  bool                           // its life is being stopped
	leaving bool                           // it is being put to sleep, or asked to, and its room is somebody else's afterwards
	again   time.Time                      // it is not asked to before that
	escorts map[*Member]context.CancelFunc // of its needs; nil while it has no life
	endLife context.CancelFunc             // ends what is done for that life
}

// TryGet returns a lease if the service is ready at this moment. It is as quick
// as the pool's: what is ready has its room.
func (m *Member) TryGet() (*pool.Lease, bool) { return m.pool.TryGet() }

// Put gives a lease back.
func (m *Member) Put(l *pool.Lease) { m.pool.Put(l) }

// Get returns a lease on a ready life of the service, as pool.Pool.Get does, and
// with its errors. Before anything is started it waits until there is room for
// the service and all its needs, and then until these are ready, one after the
// other. The error is a *NoRoomError if there was no room in the group's time,
// or can never be, and a *NeedError if a need could not be had.
func (m *Member) Get(ctx context.Context, by pool.Caller) (*pool.Lease, error) {
	if ctx.Err() == nil {
		if l, ok := m.pool.TryGet(); ok {
			return l, nil
		}
	}
	if err := m.admit(ctx, by); err != nil {
		return nil, err
	}
	defer m.depart()
	return m.lease(ctx, by, m.pool.Get)
}

// Keep is Get for pool.Pool.Keep.
func (m *Member) Keep(ctx context.Context, by pool.Caller) (*pool.Lease, error) {
	if err := m.admit(ctx, by); err != nil {
		return nil, err
	}
	defer m.depart()
	return m.lease(ctx, by, m.pool.Keep)
}

// lease waits for the needs and then for the service itself, for which there is
// room. The needs are kept until the service's own life has escorts for them. A
// need that is none any more when it fails does not matter; one that has ended for
// good is waited for to be replaced.
func (m *Member) lease(ctx context.Context, by pool.Caller, get func(context.Context, pool.Caller) (*pool.Lease, error)) (*pool.Lease, error) {
	var done []*Member
	for n := m.next(done); n != nil; n = m.next(done) {
		done = append(done, n)
		l, err := n.Keep(ctx, pool.Caller{Name: by.Name + " for " + m.name, Source: by.Source})
		switch {
		case err == nil:
			defer n.pool.Put(l)
		case errors.Is(err, pool.ErrShutdown):
			if err := m.awaitOther(ctx, n); err != nil {
				return nil, m.needError(ctx, n, err)
			}
		case ctx.Err() != nil || slices.Contains(m.needed(), n):
			return nil, m.needError(ctx, n, err)
		}
	}
	return get(ctx, by)
}

// next returns the first need that was not seen to yet, nil if there is none.
func (m *Member) next(done []*Member) *Member {
	for _, n := range m.needed() {
		if !slices.Contains(done, n) {
			return n
		}
	}
	return nil
}

func (m *Member) needed() []*Member {
	m.ledger.mu.Lock()
	defer m.ledger.mu.Unlock()
	return m.needs
}

// admit returns nil when there is room for the member. The caller must call
// depart then.
func (m *Member) admit(ctx context.Context, by pool.Caller) error {
	l := m.ledger
	l.mu.Lock()
	switch {
	case ctx.Err() != nil:
		l.mu.Unlock()
		return context.Cause(ctx)
	case m.active && !m.leaving:
		m.gets++
		l.mu.Unlock()
		return nil
	case l.closed || m.removed:
		l.mu.Unlock()
		return pool.ErrShutdown
	}
	p := l.joinLocked(m, by.Name)
	l.grantLocked()
	wait, why := l.patienceLocked(m), ""
	if m.party == p && !p.told {
		why = l.whyLocked(p)
		p.told = why != ""
	}
	l.mu.Unlock()
	if why != "" {
		l.log.Info("waits for room", "service", m.name, "client", by.Name, "why", why)
	}
	return l.await(ctx, p, wait)
}

// await waits until a party is answered, for as long as wait, if that is not 0.
func (l *Ledger) await(ctx context.Context, p *party, wait time.Duration) error {
	var over <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-p.answered:
		return p.err
	case <-ctx.Done():
		return l.giveUp(p, context.Cause(ctx), 0)
	case <-over:
		return l.giveUp(p, nil, wait)
	}
}

// giveUp takes one caller out of a party, because of an error or because he has
// waited for so long. It returns what he is to be told: nil if he was let in at
// the same moment.
func (l *Ledger) giveUp(p *party, err error, waited time.Duration) error {
	l.mu.Lock()
	select {
	case <-p.answered:
		l.mu.Unlock()
		return p.err
	default:
	}
	tell := false
	if err == nil {
		err = l.noRoomLocked(p.of, waited)
		tell, p.gaveUp = !p.gaveUp, true
	}
	if p.callers--; p.callers == 0 {
		l.dropLocked(p)
		l.changedLocked()
	}
	l.mu.Unlock()
	if tell {
		l.log.Warn("no room", "service", p.of.name, "client", p.who, "err", err)
	}
	return err
}

// depart ends what admit began: the caller has left the pool. A life that it
// has started may not have been told yet, so the pool is asked.
func (m *Member) depart() {
	gen := m.pool.Use().Gen
	m.ledger.mu.Lock()
	defer m.ledger.mu.Unlock()
	m.gets--
	m.newest = max(m.newest, gen)
	m.ledger.settleLocked(m)
	m.ledger.ringLocked() // it may sleep now
}

// Event takes note of what happened to the member's pool. It does not block.
func (m *Member) Event(ev pool.Event) {
	switch ev.Kind {
	case pool.EventStarting:
		m.begin(ev.Gen)
	case pool.EventStartFailed:
		m.yield()
	case pool.EventShutdown:
		m.endBegins()
	case pool.EventClosed:
		m.end(ev.Gen)
	}
}

// begin has a new life accompanied.
func (m *Member) begin(gen uint64) {
	l := m.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	m.newest = max(m.newest, gen)
	l.activateLocked(m) // in case somebody has started it past us
	if m.leaving {      // see yield: some had come before
		m.leaving = false
		l.changedLocked()
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.endLife, m.escorts = cancel, make(map[*Member]context.CancelFunc)
	for _, n := range m.needs {
		until, dismiss := context.WithCancel(ctx)
		m.escorts[n] = dismiss
		go m.escort(until, n)
	}
	for _, w := range m.wake {
		go m.wakeAlong(ctx, w)
	}
}

// dismissLocked ends the escorts of needs that are none any more.
func (m *Member) dismissLocked() {
	for n, dismiss := range m.escorts {
		if !slices.Contains(m.needs, n) {
			dismiss()
			delete(m.escorts, n)
		}
	}
}

// yield lets those go first who wait already, after a start has failed: whoever
// comes from now on is behind them. Else a service that never starts, and whose
// clients come again and again, would keep its room for ever.
func (m *Member) yield() {
	l := m.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.pins == 0 && l.waitedLocked()[m.terms.Group] {
		m.leaving = true
	}
}

// endBegins notes that the life is being stopped, for whatever reason.
func (m *Member) endBegins() {
	m.ledger.mu.Lock()
	defer m.ledger.mu.Unlock()
	m.ending = true
	m.ledger.ringLocked()
}

// end gives up what was held for a life of which nothing is left.
func (m *Member) end(gen uint64) {
	l := m.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	m.gone, m.ending = gen, false
	if m.endLife != nil {
		m.endLife()
		m.endLife, m.escorts = nil, nil
	}
	l.settleLocked(m)
}

// activateLocked makes a member hold its room, and that of its needs.
func (l *Ledger) activateLocked(m *Member) {
	if m.active {
		return
	}
	m.active, m.leaving, m.again = true, false, time.Time{}
	m.pinLocked()
}

func (m *Member) pinLocked() {
	m.pinned = m.closureLocked()
	for _, n := range m.pinned {
		n.pins++
	}
}

func (m *Member) unpinLocked() {
	for _, n := range m.pinned {
		n.pins--
	}
	m.pinned = nil
}

// settleLocked gives a member's room back if it has no life and nobody is about
// to start one.
func (l *Ledger) settleLocked(m *Member) {
	if !m.active || m.gets > 0 || m.livesLocked() {
		return
	}
	m.active, m.leaving = false, false
	m.unpinLocked()
	l.changedLocked()
}

// changedLocked lets in whom it can after room was given back, or somebody has
// left the queue.
func (l *Ledger) changedLocked() {
	l.sweepLocked()
	l.grantLocked()
	l.ringLocked()
}

// ringLocked rings if anybody listens.
func (l *Ledger) ringLocked() {
	if l.attending {
		l.ring()
	}
}

// livesLocked reports whether something of a life exists.
func (m *Member) livesLocked() bool { return m.newest > m.gone }

// holdsLocked reports whether the member takes room.
func (m *Member) holdsLocked() bool { return m.active || m.pins > 0 }

// closureLocked returns whom the member needs, directly or not, each before
// whoever needs it.
func (m *Member) closureLocked() (all []*Member) {
	var visit func(x *Member)
	visit = func(x *Member) {
		for _, n := range x.needs {
			if n != m && !slices.Contains(all, n) {
				visit(n)
				all = append(all, n)
			}
		}
	}
	visit(m)
	return all
}
