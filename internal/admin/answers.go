package admin

import "time"

// The answers, as docs/openapi.yaml describes them. Times are RFC 3339 with the
// machine's own zone.

// Seconds is a time span: a JSON number of seconds.
type Seconds float64

// InSeconds returns d as it is told.
func InSeconds(d time.Duration) Seconds { return Seconds(d.Seconds()) }

// Duration returns s as a time.Duration.
func (s Seconds) Duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// The states of a service.
const (
	StateClosed   = "closed"   // nothing of the child exists
	StateStarting = "starting" // it exists or is being made, and is not ready
	StateOpened   = "opened"   // it is ready
	StateShutdown = "shutdown" // it, or what is left of it, is being stopped
)

// Service is one service: what it is, how it is, and what it has done since
// tiproxy began to count.
type Service struct {
	Name    string    `json:"name"`
	State   string    `json:"state"` // one of the four
	Since   time.Time `json:"since"` // of that state
	PID     int       `json:"pid,omitzero"`
	Bind    string    `json:"bind"`           // where clients connect
	Dest    string    `json:"dest,omitzero"`  // where the child listens; "" if it inherits bind
	Program string    `json:"program"`        // its name only
	Path    string    `json:"path"`           // copy, direct or inherit
	Group   string    `json:"group,omitzero"` // "" = none

	Connections int `json:"connections"` // served at this moment, the resting ones included
	Waiting     int `json:"waiting"`     // clients that wait for the child
	Resting     int `json:"resting"`     // connections that do not keep the child awake

	Served    uint64 `json:"served"`     // connections ever connected to a child
	Starts    uint64 `json:"starts"`     // ever begun
	Failures  uint64 `json:"failures"`   // starts that failed
	BytesUp   uint64 `json:"bytes_up"`   // to the child
	BytesDown uint64 `json:"bytes_down"` // from it

	Failed       string    `json:"failed,omitzero"`        // why the service takes no clients at all; "" while it does
	Draining     string    `json:"draining,omitzero"`      // opened, but to be stopped for this reason once its connections have ended
	LastError    *Failure  `json:"last_error,omitempty"`   // of the newest failure
	HeldUntil    time.Time `json:"held_until,omitzero"`    // kept awake until then, by hold
	IdleDeadline time.Time `json:"idle_deadline,omitzero"` // to be stopped then, if nobody comes

	ColdStarts    []ColdStart `json:"cold_starts"`    // the newest ones, oldest first
	Timeline      []Change    `json:"timeline"`       // the newest changes of state, oldest first
	Seconds       InState     `json:"seconds"`        // spent in each state
	CountingSince time.Time   `json:"counting_since"` // what all counts and spans begin with
}

// Failure is why a child could not be started, or ended badly.
type Failure struct {
	At    time.Time `json:"at,omitzero"`
	Error string    `json:"error"`
	Hint  string    `json:"hint,omitzero"`
	Lines []string  `json:"lines,omitempty"` // the last ones that the child printed
}

// ColdStart is one start of the child.
type ColdStart struct {
	At   time.Time `json:"at"`
	Who  string    `json:"who"`  // who woke it: the address of a client, or what it was instead
	Took Seconds   `json:"took"` // until it was ready, or had failed
	OK   bool      `json:"ok"`
}

// Change is one change of a service's state.
type Change struct {
	At     time.Time `json:"at"`
	State  string    `json:"state"` // from then on
	Reason string    `json:"reason,omitzero"`
	Who    string    `json:"who,omitzero"` // starting: who woke it
}

// InState is how long a service was in each of its states.
type InState struct {
	Closed   Seconds `json:"closed"`
	Starting Seconds `json:"starting"`
	Opened   Seconds `json:"opened"`
	Shutdown Seconds `json:"shutdown"`
}

// Total is the time in all states.
func (s InState) Total() Seconds { return s.Closed + s.Starting + s.Opened + s.Shutdown }

// Connection is one client's connection.
type Connection struct {
	Peer      string    `json:"peer"` // the client's address
	Since     time.Time `json:"since"`
	Waiting   bool      `json:"waiting"` // for the child
	Resting   bool      `json:"resting"` // does not keep the child awake
	BytesUp   uint64    `json:"bytes_up"`
	BytesDown uint64    `json:"bytes_down"`
}

// Group is services that share a budget.
type Group struct {
	Name      string     `json:"name"`
	Services  []string   `json:"services"`
	Waiting   []string   `json:"waiting"` // services that wait for room
	Resources []Resource `json:"resources"`
}

// Resource is what a group has of something, such as memory, in its unit.
type Resource struct {
	Name  string `json:"name"`
	Limit int64  `json:"limit"`
	Used  int64  `json:"used"` // by the services that are awake
}

// Reloaded is what a reload of the configuration changed: names of services.
type Reloaded struct {
	Added     []string `json:"added"`
	Changed   []string `json:"changed"`
	Removed   []string `json:"removed"`
	Unchanged []string `json:"unchanged"`
}

// Version is which tiproxy answers.
type Version struct {
	Version string    `json:"version"`
	Commit  string    `json:"commit"`
	Go      string    `json:"go"`
	OS      string    `json:"os"`
	Arch    string    `json:"arch"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
}

// Line is one line of a child's output.
type Line struct {
	Seq    uint64    `json:"seq"` // counts from 1, over both streams
	Time   time.Time `json:"time"`
	Stream string    `json:"stream"` // stdout or stderr
	Line   string    `json:"line"`
	Cut    bool      `json:"cut,omitzero"` // it was longer
}

// The kinds of events. Statistics and Dropped are not remembered.
const (
	KindStarting     = "starting"
	KindOpened       = "opened"
	KindStartFailed  = "start_failed"
	KindShutdown     = "shutdown"
	KindClosed       = "closed"
	KindHeld         = "held"          // awake until Until, whoever comes or goes
	KindReleased     = "released"      // that is over
	KindReloaded     = "reloaded"      // the configuration was read again
	KindReloadFailed = "reload_failed" // it was wrong: nothing has changed
	KindStopping     = "stopping"      // tiproxy itself
	KindStatistics   = "statistics"
	KindDropped      = "dropped" // the last event of a stream that was not read in time
)

// Event is one thing that happened.
type Event struct {
	Kind    string    `json:"kind"`
	At      time.Time `json:"at"`
	Service string    `json:"service,omitzero"` // "" = tiproxy itself
	State   string    `json:"state,omitzero"`   // of the service, from then on
	PID     int       `json:"pid,omitzero"`
	Who     string    `json:"who,omitzero"`    // starting: who woke it
	Reason  string    `json:"reason,omitzero"` // shutdown, closed, released
	Took    Seconds   `json:"took,omitzero"`   // opened: from the start until ready
	Uptime  Seconds   `json:"uptime,omitzero"` // closed: from the start until the end
	Until   time.Time `json:"until,omitzero"`  // held

	Failure    *Failure    `json:"failure,omitempty"` // start_failed, reload_failed, and closed by a crash
	Reloaded   *Reloaded   `json:"reloaded,omitempty"`
	Statistics *Statistics `json:"statistics,omitempty"`
}

// Statistics are the numbers of a service that change without a change of state.
type Statistics struct {
	Connections int    `json:"connections"`
	Waiting     int    `json:"waiting"`
	Resting     int    `json:"resting"`
	Served      uint64 `json:"served"`
	Starts      uint64 `json:"starts"`
	Failures    uint64 `json:"failures"`
	BytesUp     uint64 `json:"bytes_up"`
	BytesDown   uint64 `json:"bytes_down"`
}

// Statistics returns the numbers of s that change without a change of state.
func (s *Service) Statistics() Statistics {
	return Statistics{
		Connections: s.Connections, Waiting: s.Waiting, Resting: s.Resting, Served: s.Served,
		Starts: s.Starts, Failures: s.Failures, BytesUp: s.BytesUp, BytesDown: s.BytesDown,
	}
}

// Problem is every answer that is not what was asked for. As an error it is
// what the API's user is told.
type Problem struct {
	Status int    `json:"-"` // of HTTP
	Text   string `json:"error"`
	Hint   string `json:"hint,omitzero"` // what would be right, or what to do
}

// Error returns what is wrong and what to do about it.
func (p *Problem) Error() string {
	if p.Hint == "" {
		return p.Text
	}
	return p.Text + ": " + p.Hint
}

// Lists are answers with one list in them.
type (
	services struct {
		Services []Service `json:"services"`
	}
	connections struct {
		Total       int          `json:"total"`
		Connections []Connection `json:"connections"`
	}
	groups struct {
		Groups []Group `json:"groups"`
	}
)
