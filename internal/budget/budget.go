// Package budget shares out room among services: it stands between the proxy and
// the pools, and lets a service start only when there is room for it and for
// everything that it needs.
//
// Always true here: a service holds its room from before its pool may start a
// life until everything of that life is gone, and as long as somebody who needs
// it holds room; room is taken for a service and all its needs at once or not at
// all; what is held exceeds a group's limits only if those were lowered, or
// somebody's use raised, after it was taken. Whoever finds no room waits in one
// queue, in the order of arrival: nobody passes another who waits for the same
// group, so a big request is not starved by small ones, and no two can wait for
// each other. While somebody waits, services that nobody uses are put to sleep,
// the one unused for longest first, no more than are necessary, and none unless
// that makes enough room. Nobody with a client is ever stopped for it: that is
// the pool's decision, made in one step.
//
// A service is wired like this: its pool has the ledger's Vacated as its
// Config.Vacated, and a Config.Notify that tells every event to the Event of the
// member that Join returns. Whoever wants a lease asks the member instead of the
// pool: the proxy, and who holds or starts the service for its operator. Leases
// of Pool.Beside stand for clients of a life that has its room already: they are
// had from the pool, as are Stop, Shutdown and all that is shown.
//
// The lock guards memory only. A client who finds his server ready does not even
// touch it.
package budget

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"tiproxy/internal/pool"
)

// Pool is the pool of one service. [pool.Pool] is one.
type Pool interface {
	Lessor
	Sleeper
}

// Lessor gives out leases.
type Lessor interface {
	TryGet() (*pool.Lease, bool)
	Get(ctx context.Context, by pool.Caller) (*pool.Lease, error)
	Keep(ctx context.Context, by pool.Caller) (*pool.Lease, error)
	Put(l *pool.Lease)
}

// Sleeper can be asked to stop what nobody uses.
type Sleeper interface {
	TryStop(why pool.Reason) (gone <-chan struct{}, ok bool)
	Use() pool.Use
}

// Ledger keeps account of the room of all groups. Its methods are safe for
// concurrent use.
type Ledger struct {
	log  *slog.Logger
	bell chan struct{} // rung when there may be something to do for those who wait

	mu sync.Mutex

	// The fields below are guarded by mu.
	groups    map[string]Group
	byName    map[string]*Member
	members   []*Member // those that have left but still hold room included
	queue     []*party  // those who wait for room, in the order of arrival
	attending bool      // attend runs
	closed    bool
	planned   chan struct{} // closed when needs may have become others, or the ledger is closed
}

// New returns a ledger without groups and members. A nil log drops its lines.
func New(log *slog.Logger) *Ledger {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Ledger{log: log, bell: make(chan struct{}, 1), byName: make(map[string]*Member), planned: make(chan struct{})}
}

// Vacated is what the pool of every member must have as its Config.Vacated.
func (l *Ledger) Vacated() chan<- struct{} { return l.bell }

// Join returns a member for a service, which is in no group and needs nobody
// until Configure says so. The pool must not have been asked for anything yet. Another one of that name, which is about to leave,
// is known by it no more.
func (l *Ledger) Join(name string, p Pool) *Member {
	m := &Member{ledger: l, name: name, pool: p}
	l.mu.Lock()
	defer l.mu.Unlock()
	if old := l.byName[name]; old != nil {
		l.removeLocked(old)
	}
	l.byName[name] = m
	l.members = append(l.members, m)
	return m
}

// Close tells those who wait for room, and those who would have to from now on,
// pool.ErrShutdown. What is held is held until its time has come.
func (l *Ledger) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.tellPlannedLocked()
	for len(l.queue) > 0 {
		l.answerLocked(l.queue[0], pool.ErrShutdown)
	}
	l.ring()
}

// ring says that something has changed for those who wait.
func (l *Ledger) ring() {
	select {
	case l.bell <- struct{}{}:
	default: // somebody is about to look anyway
	}
}

// tellPlannedLocked wakes those who wait for other needs.
func (l *Ledger) tellPlannedLocked() {
	close(l.planned)
	l.planned = make(chan struct{})
}

// removeLocked has a member forgotten as soon as it holds nothing.
func (l *Ledger) removeLocked(m *Member) {
	m.removed = true
	if m.party != nil {
		l.answerLocked(m.party, pool.ErrShutdown)
	}
	if l.byName[m.name] == m {
		delete(l.byName, m.name)
	}
	l.sweepLocked()
}

// sweepLocked forgets members that were removed and hold nothing.
func (l *Ledger) sweepLocked() {
	l.members = slices.DeleteFunc(l.members, func(m *Member) bool {
		return m.removed && !m.holdsLocked()
	})
}

// party are the callers who wait for room for one member.
type party struct {
	of       *Member
	who      string // the first of them
	since    time.Time
	callers  int
	told     bool          // that they wait
	gaveUp   bool          // one of them has waited for too long, which was told
	answered chan struct{} // closed when they are let in, or told err
	err      error
}

// joinLocked adds a caller to those who wait for m.
func (l *Ledger) joinLocked(m *Member, who string) *party {
	if m.party == nil {
		m.party = &party{of: m, who: who, since: time.Now(), answered: make(chan struct{})}
		l.queue = append(l.queue, m.party)
		l.ring()
	}
	m.party.callers++
	return m.party
}

// answerLocked ends the waiting of a party.
func (l *Ledger) answerLocked(p *party, err error) {
	p.err = err
	if err == nil {
		p.of.gets += p.callers
		l.activateLocked(p.of)
	}
	l.dropLocked(p)
	close(p.answered)
}

// dropLocked takes a party out of the queue.
func (l *Ledger) dropLocked(p *party) {
	p.of.party = nil
	l.queue = slices.DeleteFunc(l.queue, func(q *party) bool { return q == p })
}
