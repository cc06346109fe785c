// Package pool owns the life of one resource: whether it runs, who uses it and
// when it is stopped.
//
// Always true here: a pool is in exactly one of four states (closed, starting,
// opened, shutdown); at most one life exists at any moment, and the next one
// starts only when everything of the last one is gone; a lease is granted only
// in opened and names the life it belongs to; deciding "idle" and leaving
// opened is one step under the lock, so a client comes either before it and
// keeps the life, or after it and is served by the next one. Every failure
// leads back to closed: there is no state that needs a person to get out of.
//
// The lock guards memory only. Starts, stops, readiness and notifications
// happen in one monitor goroutine per life, outside the lock.
package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// State is where a pool is between nothing running and a life in use.
type State uint8

// The four states of a pool. Logs, metrics and documents use their names.
const (
	Closed   State = iota // nothing of ours exists
	Starting              // the life exists or is being made, and is not ready
	Opened                // the life is ready and may be in use
	Shutdown              // the life, or what is left of it, is being stopped
	states
)

// String returns the state's name: "closed", "starting", "opened" or "shutdown".
func (s State) String() string {
	names := [states]string{"closed", "starting", "opened", "shutdown"}
	if s < states {
		return names[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// ErrShutdown is what Get returns once Shutdown was called.
var ErrShutdown = errors.New("tiproxy is stopping")

// StartError is the failure of one start. Everybody who waited for that start
// gets the same value.
type StartError struct {
	Gen uint64 // the life that did not come to be
	Err error  // why
}

// Error returns the reason, as people read it.
func (e *StartError) Error() string { return fmt.Sprintf("start %d failed: %v", e.Gen, e.Err) }

// Unwrap returns the reason.
func (e *StartError) Unwrap() error { return e.Err }

// Config is how a pool behaves. The zero value never stops an idle life and
// never gives up a start.
type Config struct {
	// Idle is how long a ready life without any lease is kept; 0 means for ever.
	Idle time.Duration
	// MinUptime is how long a life is kept from the moment it is ready, however
	// idle it is.
	MinUptime time.Duration
	// WakeRate is how often callers of one source may start a life. Beyond it
	// they wait: until they may again, or somebody else has started it.
	WakeRate Rate
	// StartTimeout is how long a start may take until it is ready; 0 means for ever.
	StartTimeout time.Duration
	// Hidden, if set, is asked before a life is stopped for being idle.
	Hidden Hidden
	// Notify, if set, is told every event, in the order in which they happened,
	// without the lock held. It must not block and must not call the pool.
	Notify func(Event)
	// Vacated, if set, gets a value whenever somebody has left a ready life and
	// nobody but holders of Keep uses it any more. Nobody waits for room in it:
	// one value that has not been taken yet stands for all that have come since.
	Vacated chan<- struct{}
}

// Pool owns the life of one Resource. Its methods are safe for concurrent use.
type Pool struct {
	hidden  Hidden
	notify  func(Event)
	vacated chan<- struct{}
	force   context.Context // done once stops are to be made by force
	kill    context.CancelFunc

	mu sync.Mutex

	// The fields below are guarded by mu.
	res       Resource // of the next start
	cfg       Config   // but for Hidden, Notify and Vacated
	state     State
	waiters   map[*waiter]struct{} // whom a change wakes
	run       *run                 // the life in progress; nil in closed
	told      chan struct{}        // closed when the last life has told its end
	gen       uint64               // of the newest life
	waiting   int                  // calls of Get that wait
	quit      bool                 // Shutdown was called: no new start, no new lease
	failures  int                  // in a row, for the hold-back
	failure   *StartError          // of the newest start that failed; nil before
	notBefore time.Time            // no start before this moment
	retry     *time.Timer          // wakes the waiting when the hold-back is over; nil unless held back with somebody waiting
	unused    time.Time            // since when the opened life has been without a lease; zero unless it is
	vacant    time.Time            // since when it has been used by nobody but holders of Keep; zero unless it is
	idle      *time.Timer          // nil unless the idle time is to end it
	retiring  bool                 // Hidden has been told Retire and not Return
	missed    *leaving             // of an idle timer that fired meanwhile
	wakes     wakes
	stats     stats
	history   history
}

// run is one life of the resource, with what the pool knows about it.
type run struct {
	gen     uint64
	res     Resource
	timeout time.Duration   // of its start; 0 means none
	who     string          // who woke it
	prev    <-chan struct{} // closed when the life before has told its end
	told    chan struct{}   // closed when this one has
	ctx     context.Context // done when the start is given up
	giveUp  context.CancelCauseFunc

	// Written before the pool is opened, by the monitor, and read by it and by
	// holders of a lease. life is written under the pool's mu, for all others.
	// addr and err are what Ready answered, once answered is closed.
	life     Life
	addr     net.Addr
	err      error
	answered chan struct{}

	ended chan struct{} // closed, under the pool's mu, when the started process has ended

	// Guarded by the pool's mu.
	stop    chan struct{} // closed when it was decided to leave starting or opened
	reason  Reason        // why it is being stopped, or why it ended
	crash   error         // for ReasonCrashed, how it ended
	parting Reason        // why it takes nobody any more, although opened; empty if it does
	asked   bool          // while it is parting Hidden was, or is being, told Retire
	looked  bool          // and has answered
	leases  int           // that keep the life awake
	beside  int           // those of them that stand for hidden connections
	kept    int           // those of them that stand for nobody: Keep
	resting int           // those that do not
	started time.Time
	opened  time.Time // zero until opened
}

// New returns a closed pool. It starts nothing before the first Get.
func New(res Resource, cfg Config) *Pool {
	p := &Pool{
		res: res, cfg: cfg, hidden: cfg.Hidden, notify: cfg.Notify, vacated: cfg.Vacated,
		waiters: make(map[*waiter]struct{}), told: make(chan struct{}),
	}
	p.force, p.kill = context.WithCancel(context.Background())
	p.stats.since = time.Now()
	p.wakes.rate = cfg.WakeRate
	close(p.told)
	return p
}

// TryGet returns a lease if the life is ready at this moment. It never waits
// and never starts anything.
func (p *Pool) TryGet() (*Lease, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.takesLocked() {
		return nil, false
	}
	return p.leaseLocked(connection), true
}

// takesLocked reports whether whoever comes now is served at once.
func (p *Pool) takesLocked() bool {
	return p.state == Opened && p.run.parting == "" && !p.quit
}

// Get returns a lease on a ready life, starting one if there is none and
// waiting for as long as that takes.
//
// It returns ctx's cause when ctx ends first, ErrShutdown when the pool stops,
// and a *StartError when the start that the caller waited for has failed.
func (p *Pool) Get(ctx context.Context, by Caller) (*Lease, error) {
	return p.get(ctx, by, connection)
}

// Keep is Get for a holder who is no connection and wants the life awake. While
// the caller waits it counts as waiting; the lease counts neither as a
// connection nor as granted. When the life ends by itself, or is stopped, the
// lease is over like any other: see Done.
func (p *Pool) Keep(ctx context.Context, by Caller) (*Lease, error) {
	return p.get(ctx, by, keep)
}

func (p *Pool) get(ctx context.Context, by Caller, as purpose) (*Lease, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.takesLocked() && ctx.Err() == nil {
		return p.leaseLocked(as), nil
	}
	p.waiting++
	defer p.leaveQueueLocked()

	awaited := p.gen + 1 // the first start whose failure concerns this caller
	if p.state == Starting {
		awaited = p.gen
	}
	for {
		var held time.Time // not by this caller before
		switch {
		case p.failure != nil && p.failure.Gen >= awaited:
			return nil, p.failure
		case p.quit:
			return nil, ErrShutdown
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case p.takesLocked():
			return p.leaseLocked(as), nil
		case p.state == Closed:
			held = p.startLocked(by)
		}
		if !held.IsZero() && by.Held != nil {
			p.mu.Unlock()
			by.Held(held)
			p.mu.Lock()
			by.Held = nil
			continue // much may have changed
		}
		p.waitLocked(ctx, held)
	}
}

// Put gives a lease back. The idle time of a life runs from the moment its
// last lease was given back. Only the first Put of a lease counts.
func (p *Pool) Put(l *Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.back {
		return
	}
	l.back = true
	if l.resting {
		l.run.resting--
	} else {
		l.run.leases--
	}
	l.run.countLocked(l.as, -1)
	p.settleLocked()
}

// Shutdown stops the pool for good: nothing is started any more and those who
// wait are told ErrShutdown. Leases may be used on until ctx is done; then, or
// as soon as there is none but resting ones, the life is stopped. Shutdown returns when nothing
// of it is left, which takes as long as the resource's own stop.
func (p *Pool) Shutdown(ctx context.Context) {
	p.mu.Lock()
	p.quit = true
	p.changeLocked()
	for p.state != Closed || p.retiring {
		if p.state == Starting || p.state == Opened && (p.run.leases == 0 || ctx.Err() != nil) {
			p.leaveLocked(ReasonQuit)
		}
		if p.state == Opened {
			p.waitLocked(ctx, time.Time{})
		} else {
			p.waitLocked(context.Background(), time.Time{}) // bounded: the life is being stopped, or Hidden looks
		}
	}
	told := p.told
	p.mu.Unlock()
	<-told // bounded: Notify does not block
}

// Kill makes every stop, the one under way included, a stop by force. It does
// not begin one.
func (p *Pool) Kill() { p.kill() }

// Lease is the right to use one life of the resource. While it is held, the
// life is not idle.
type Lease struct {
	pool *Pool
	run  *run

	// Guarded by the pool's mu.
	as      purpose
	back    bool // given back
	resting bool // does not keep the life awake
}

// purpose is what a lease stands for.
type purpose uint8

const (
	connection purpose = iota
	hidden             // all connections of which the pool knows nothing
	keep               // nobody: somebody wants the life awake
)

// countLocked counts a lease that is no connection.
func (r *run) countLocked(as purpose, n int) {
	switch as {
	case hidden:
		r.beside += n
	case keep:
		r.kept += n
	}
}

// Addr returns where the life takes connections.
func (l *Lease) Addr() net.Addr { return l.run.addr }

// Gen returns the number of the life, counted from 1.
func (l *Lease) Gen() uint64 { return l.run.gen }

// Opened returns when the life was found ready.
func (l *Lease) Opened() time.Time { return l.run.opened }

// Done returns a channel that is closed when the started process of this life
// has ended by itself, or all of a life that was stopped is gone. The lease no
// longer counts from then on.
func (l *Lease) Done() <-chan struct{} { return l.run.ended }

// Ready waits until the life takes connections and returns where. It is for a
// holder whose connection was refused although the life goes on. It returns
// ctx's error, or another one when the life has ended.
func (l *Lease) Ready(ctx context.Context) (net.Addr, error) { return l.run.life.Ready(ctx) }

// leaseLocked grants a lease on the current life.
func (p *Pool) leaseLocked(as purpose) *Lease {
	p.disarmLocked()
	p.run.leases++
	p.run.countLocked(as, 1)
	if as == connection {
		p.stats.granted++
	}
	if as != keep {
		p.vacant = time.Time{}
	}
	return &Lease{pool: p, run: p.run, as: as}
}

// leaveQueueLocked takes a caller of Get out of the count of the waiting.
func (p *Pool) leaveQueueLocked() {
	p.waiting--
	if p.waiting == 0 && p.retry != nil {
		p.retry.Stop()
		p.retry = nil
	}
	p.settleLocked()
}

// settleLocked acts on the departure of a lease or of a waiting caller: the
// last one arms the idle timer, or lets Shutdown or Stop go on.
func (p *Pool) settleLocked() {
	p.vacateLocked()
	switch {
	case p.state != Opened || p.run.leases > 0:
	case p.quit || p.run.parting != "":
		p.changeLocked()
	case p.waiting == 0 && p.unused.IsZero():
		p.unused = time.Now()
		p.armLocked()
	}
}

// startLocked begins a new life, or arms the timer that will do so when starts
// are held back. It returns the moment before which this caller may not start
// one, zero if there is none.
func (p *Pool) startLocked(by Caller) (held time.Time) {
	if p.retry != nil {
		return time.Time{}
	}
	now := time.Now()
	if next := p.wakes.next(by.Source); next.After(now) {
		return next
	}
	if wait := p.notBefore.Sub(now); wait > 0 {
		p.retry = time.AfterFunc(wait, p.endHoldBack)
		return time.Time{}
	}
	p.wakes.record(by.Source, now)
	p.gen++
	r := &run{
		gen: p.gen, res: p.res, timeout: p.cfg.StartTimeout, who: by.Name, started: now,
		prev: p.told, told: make(chan struct{}),
		answered: make(chan struct{}), ended: make(chan struct{}), stop: make(chan struct{}),
	}
	r.ctx, r.giveUp = context.WithCancelCause(context.Background())
	p.run, p.told = r, r.told
	p.stats.starts++
	p.setLocked(Starting, r)
	go p.monitor(r)
	return time.Time{}
}

// endHoldBack lets the waiting start again. A call that comes so late that
// starts are held back anew changes nothing: another timer is armed for that.
func (p *Pool) endHoldBack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Until(p.notBefore) > 0 {
		return
	}
	p.retry = nil
	p.changeLocked()
}

// leaveLocked decides that the current life is to be stopped. The monitor
// carries it out.
func (p *Pool) leaveLocked(why Reason) {
	r := p.run
	p.disarmLocked()
	p.forgiveLocked(r)
	if p.state == Starting {
		p.history.start(r, why)
	}
	r.reason = why
	p.stats.stop(why)
	close(r.stop)
	r.giveUp(why)
	p.setLocked(Shutdown, r)
}

// setLocked changes the state, for something that happened to r.
func (p *Pool) setLocked(s State, r *run) {
	now := time.Now()
	p.stats.leave(p.state, now)
	p.history.change(s, r, now)
	p.state = s
	p.vacant = time.Time{}
	p.changeLocked()
}

// waiter is one call of Get, Stop or Shutdown that waits for a change. Each has a
// Cond of its own, all of them on the pool's mu, so that whoever leaves wakes
// nobody but himself: clients leave in crowds, and one Cond for all would make
// that quadratic.
type waiter struct {
	mu   *sync.Mutex
	cond *sync.Cond
}

// look makes the waiter look again: its context is done, or its time has come.
func (w *waiter) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cond.Signal()
}

// changeLocked makes everybody who waits look again.
func (p *Pool) changeLocked() {
	for w := range p.waiters {
		w.cond.Signal()
	}
}

// waitLocked gives up the lock until there is reason to look again: something
// has changed, ctx is done, or until has come, if that is not zero.
func (p *Pool) waitLocked(ctx context.Context, until time.Time) {
	w := &waiter{mu: &p.mu, cond: sync.NewCond(&p.mu)}
	unhook := context.AfterFunc(ctx, w.look)
	if !until.IsZero() {
		timer := time.AfterFunc(time.Until(until), w.look)
		defer timer.Stop()
	}
	p.waiters[w] = struct{}{}
	w.cond.Wait()
	delete(p.waiters, w)
	unhook()
}
