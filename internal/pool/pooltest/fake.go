// Package pooltest helps to test what starts and stops things: Resource is a
// pool.Resource without any process, driven by the test, and TestResource is
// what every kind of resource has to pass.
//
// Always true here: a Resource keeps account of its lives by itself and
// remembers every rule of pool.Resource that its user has broken, such as a
// start while something of another life is left. It runs on any clock, so it
// can be used inside a testing/synctest bubble as well as outside.
package pooltest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"tiproxy/internal/pool"
)

// Manual, as a Script's duration, means "not by itself": the test makes it
// happen through the Life.
const Manual time.Duration = -1

// Errors of lives as the pool sees them.
var (
	ErrEnded   = errors.New("the life has ended")
	ErrStopped = errors.New("signal: terminated")
	ErrKilled  = errors.New("signal: killed")
)

// Script is how one life behaves. The zero Script is started and ready at once,
// and gone as soon as it is asked to stop.
type Script struct {
	Spawn      time.Duration // how long Start takes; it does not look at its ctx meanwhile
	SpawnError error         // if set, Start fails with it
	Ready      time.Duration // from Start until ready, or Manual
	ReadyError error         // if set, the life can never be ready, which turns out after Ready
	Blind      bool          // Ready does not see that the life has ended, as long as its ctx lasts
	Lives      time.Duration // from Start until it ends by itself; 0 means for ever
	Exit       pool.Exit     // how it ends by itself after Lives
	Stop       time.Duration // from a polite stop until all of it is gone, or Manual: ignores it
}

// Resource is a pool.Resource that is driven by the test. The zero Resource
// gives lives of the zero Script.
type Resource struct {
	mu       sync.Mutex
	script   func(gen uint64) Script
	lives    []*Life
	starting int      // calls of Start under way
	starts   int      // calls of Start ever made
	faults   []string // rules of pool.Resource that were broken
}

// New returns a Resource whose every life behaves as the script says.
func New(s Script) *Resource {
	r := &Resource{}
	r.SetScript(s)
	return r
}

// SetScript sets how lives behave that are started from now on.
func (r *Resource) SetScript(s Script) {
	r.SetScripts(func(uint64) Script { return s })
}

// SetScripts sets how each life behaves that is started from now on.
func (r *Resource) SetScripts(script func(gen uint64) Script) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.script = script
}

// Start begins a life. It fails as the script says, and when ctx has ended
// before: whoever calls it cannot know that of a context that others end.
func (r *Resource) Start(ctx context.Context, gen uint64) (pool.Life, error) {
	s := r.begin(gen)
	late := context.Cause(ctx)
	if s.Spawn > 0 && late == nil {
		<-time.After(s.Spawn)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting--
	if late != nil {
		return nil, late
	}
	if s.SpawnError != nil {
		return nil, s.SpawnError
	}
	l := newLife(gen, s)
	r.lives = append(r.lives, l)
	l.run()
	return l, nil
}

// begin checks what must be true when Start is called.
func (r *Resource) begin(gen uint64) Script {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.starting > 0 {
		r.faultLocked("start %d while another start is under way", gen)
	}
	for _, l := range r.lives {
		if !l.Gone() {
			r.faultLocked("start %d while something of life %d is left", gen, l.Gen())
		}
	}
	if r.starts++; uint64(r.starts) > gen {
		r.faultLocked("start %d is call %d: a generation was started twice", gen, r.starts)
	}
	r.starting++
	if r.script == nil {
		return Script{}
	}
	return r.script(gen)
}

func (r *Resource) faultLocked(format string, args ...any) {
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

// Starts returns how often Start was called.
func (r *Resource) Starts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.starts
}

// Starting tells whether a call of Start is under way.
func (r *Resource) Starting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.starting > 0
}

// Last returns the newest life, or nil if there was none.
func (r *Resource) Last() *Life {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lives) == 0 {
		return nil
	}
	return r.lives[len(r.lives)-1]
}

// Alive returns the lives of which something is left. More than one is a fault.
func (r *Resource) Alive() []*Life {
	r.mu.Lock()
	defer r.mu.Unlock()
	var alive []*Life
	for _, l := range r.lives {
		if !l.Gone() {
			alive = append(alive, l)
		}
	}
	return alive
}

// Err returns the rules of pool.Resource that were broken so far, or nil.
func (r *Resource) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, f := range r.faults {
		errs = append(errs, errors.New(f))
	}
	return errors.Join(errs...)
}

// Verify fails the test if a rule was broken or something of a life is left.
func (r *Resource) Verify(t testing.TB) {
	t.Helper()
	if err := r.Err(); err != nil {
		t.Errorf("rules of pool.Resource were broken: %v", err)
	}
	for _, l := range r.Alive() {
		t.Errorf("something of life %d is left", l.Gen())
	}
}

// Addr is the address of a life of a Resource. It cannot be dialed.
type Addr uint64

// Network returns "fake".
func (a Addr) Network() string { return "fake" }

// String names the life.
func (a Addr) String() string { return fmt.Sprintf("life-%d", uint64(a)) }

var _ net.Addr = Addr(0)
