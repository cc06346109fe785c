package pool

import (
	"maps"
	"net"
	"time"
)

// Reason is why a life was stopped or ended. It is an error so that it can be
// the cause of a context.
type Reason string

// The reasons, as logs and statistics name them.
const (
	ReasonIdle     Reason = "idle"          // nobody was connected for the idle time
	ReasonTimeout  Reason = "start timeout" // it was not ready in time
	ReasonNotReady Reason = "start failed"  // it could not be started or never be ready
	ReasonQuit     Reason = "tiproxy stops" // Shutdown was called
	ReasonAsked    Reason = "asked for"     // an operator has asked for it
	ReasonRoom     Reason = "room needed"   // nobody was connected, and others need what it holds
	ReasonExited   Reason = "child exited"  // by itself, with status 0
	ReasonCrashed  Reason = "child crashed" // by itself, with another status or by a signal
)

// Error returns the reason's name.
func (r Reason) Error() string { return string(r) }

// EventKind is what happened to a life.
type EventKind uint8

// The kinds of events. Those of one life come in this order; StartFailed comes
// instead of Opened, and Shutdown only where something had to be stopped.
const (
	EventStarting EventKind = iota
	EventOpened
	EventStartFailed
	EventShutdown
	EventClosed
)

// Event is one thing that happened to a life.
type Event struct {
	Kind    EventKind
	Gen     uint64        // of the life
	Life    Life          // nil while there is none yet
	Who     string        // who woke it
	Waiting int           // clients waiting at this moment
	Addr    net.Addr      // where it takes connections, once opened
	Reason  Reason        // Shutdown, Closed: why
	Took    time.Duration // once opened: from the start until ready
	Uptime  time.Duration // since the start
	Err     error         // StartFailed: a *StartError; Closed: why, for ReasonCrashed
	Exit    Exit          // Closed: how the process ended; the zero Exit if none was started
}

// Snapshot is a copy of what a pool knows at one moment, for display only.
type Snapshot struct {
	State       State
	Since       time.Time // of the last change of state
	Gen         uint64    // of the newest life, 0 before the first
	Connections int       // leases of the current life, resting ones included
	Resting     int       // those of them that do not keep it awake
	Held        int       // leases of Keep on the current life
	Waiting     int       // callers of Get and Keep that wait
	Granted     uint64    // leases ever granted
	Starts      uint64    // starts ever begun
	Failures    uint64    // starts that failed
	Stops       map[Reason]uint64
	InState     [states]time.Duration // time spent in each state, indexed by State
	LastError   error                 // of the last failure, nil if there was none
	HeldUntil   time.Time             // no start before this moment; may be in the past

	// Of the life there is now, zero while there is none.
	Life    Life      // nil also while it is being started and does not exist yet
	Who     string    // who woke it
	Started time.Time // when its start began
	Opened  time.Time // when it was ready, zero until then
	Parting Reason    // why it takes nobody any more although it is opened; empty if it does

	// IdleSince is since when an opened life has been without any lease that
	// keeps it awake, and IdleEnd when that will end it. Both are zero while
	// somebody uses it, IdleEnd also if nothing will. Hidden connections show in
	// neither before the pool has asked for them.
	IdleSince, IdleEnd time.Time
}

// Snapshot returns a copy of the pool's state and statistics. A decision must
// not be based on it: it may be out of date on arrival.
func (p *Pool) Snapshot() Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Snapshot{
		State: p.state, Since: p.stats.since, Gen: p.gen, Waiting: p.waiting,
		Granted: p.stats.granted, Starts: p.stats.starts, Failures: p.stats.failed,
		Stops: maps.Clone(p.stats.stops), InState: p.stats.inState,
		LastError: p.stats.lastErr, HeldUntil: p.notBefore,
	}
	if r := p.run; r != nil {
		r.showLocked(&s)
	}
	if s.IdleSince = p.unused; p.idle != nil {
		s.IdleEnd = p.idleEndLocked()
	}
	s.InState[p.state] += time.Since(p.stats.since)
	return s
}

// showLocked fills in what is known of the current life.
func (r *run) showLocked(s *Snapshot) {
	s.Life, s.Who, s.Started, s.Opened, s.Parting = r.life, r.who, r.started, r.opened, r.parting
	if !r.isEnded() {
		s.Connections, s.Resting = r.leases-r.beside-r.kept+r.resting, r.resting
		s.Held = r.kept
	}
}

// isEnded tells whether the started process of the life has ended.
func (r *run) isEnded() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// stats is what a pool counts. It is guarded by the pool's mu.
type stats struct {
	since   time.Time // of the last change of state
	inState [states]time.Duration
	granted uint64
	starts  uint64
	failed  uint64
	stops   map[Reason]uint64
	lastErr error
}

// leave accounts for the time spent in the state that is left now.
func (s *stats) leave(old State, now time.Time) {
	s.inState[old] += now.Sub(s.since)
	s.since = now
}

// stop counts the end of a life by its reason.
func (s *stats) stop(why Reason) {
	if s.stops == nil {
		s.stops = make(map[Reason]uint64)
	}
	s.stops[why]++
}
