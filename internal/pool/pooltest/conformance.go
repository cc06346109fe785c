package pooltest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"tiproxy/internal/pool"
)

// Behaviour is what the suite wants the lives of a resource to be like.
type Behaviour uint8

// The behaviours. A polite stop of a Stubborn life must have a grace period of
// at least a minute, or the suite cannot tell force from patience.
const (
	Obedient   Behaviour = iota // is ready soon, and soon gone when asked to stop
	NeverReady                  // as Obedient, but never takes connections
	Stubborn                    // as Obedient, but ignores a polite stop
	Parent                      // as Obedient, but End leaves another process behind
	Broken                      // cannot be started
)

// Harness makes resources of one kind for the suite and looks into their lives.
type Harness struct {
	// Make returns a resource whose lives behave so. It is used by one check
	// at a time.
	Make func(Behaviour) pool.Resource
	// End makes the started process of a life end by itself with status 0. It
	// does not wait for that.
	End func(pool.Life)
	// Alive tells whether any process of the life exists, zombies included.
	Alive func(pool.Life) bool
}

const (
	// patience bounds every wait for something that must happen.
	patience = 20 * time.Second
	// promptly is how soon things must happen that the suite calls prompt.
	promptly = 5 * time.Second
	// quiet is how long the suite looks for something that must not happen.
	quiet = 50 * time.Millisecond
)

// TestResource checks that a kind of resource keeps the rules of pool.Resource
// and pool.Life. newResource is called once for every check.
func TestResource(t *testing.T, newResource func(t *testing.T) Harness) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			if err := c.run(newResource(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// check is one rule. Its error says how the rule was broken.
type check struct {
	name  string
	check func(ctx context.Context, s *subject) error
}

var checks = []check{
	{"ready returns an address", readyReturnsAddress},
	{"ready ends with its context", readyEndsWithContext},
	{"ready fails once the life has ended", readyFailsAfterEnd},
	{"pending ready fails when the life is stopped", pendingReadyFailsOnStop},
	{"exit by itself is one value", exitIsOneValue},
	{"exit tells what is left", exitTellsLeft},
	{"stop returns when all is gone", stopLeavesNothing},
	{"stop ends what is left", stopEndsLeft},
	{"stop of a life that is gone returns at once", stopOfGone},
	{"stop is forceful when its context ends", stopTurnsForceful},
	{"stop is forceful when its context has ended", stopIsForceful},
	{"stop and ready are safe at the same time", concurrentUse},
	{"start works again after stop", startAfterStop},
	{"start works again after an exit without stop", startAfterExit},
	{"life outlives the context of its start", lifeOutlivesStartContext},
	{"failed start leaves nothing", failedStart},
}

// run makes the check, cleans up, and looks whether that was possible.
func (c check) run(h Harness) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s := &subject{Harness: h}
	return errors.Join(c.check(ctx, s), s.clean())
}

// subject is the resource under one check.
type subject struct {
	Harness
	res   pool.Resource
	lives []pool.Life
}

// start begins the next life of the resource, which is made when there is none.
func (s *subject) start(ctx context.Context, b Behaviour) (pool.Life, error) {
	if s.res == nil {
		s.res = s.Make(b)
	}
	life, err := s.res.Start(ctx, uint64(len(s.lives)+1))
	if err != nil {
		return nil, fmt.Errorf("Start: %w", err)
	}
	if life == nil {
		return nil, errors.New("Start returned neither a life nor an error")
	}
	s.lives = append(s.lives, life)
	return life, nil
}

// startReady begins a life and waits until it is ready.
func (s *subject) startReady(ctx context.Context, b Behaviour) (pool.Life, error) {
	life, err := s.start(ctx, b)
	if err != nil {
		return nil, err
	}
	addr, err := life.Ready(ctx)
	if err != nil {
		return nil, fmt.Errorf("Ready: %w", err)
	}
	if addr == nil {
		return nil, errors.New("Ready returned neither an address nor an error")
	}
	return life, nil
}

// clean stops all lives by force.
func (s *subject) clean() error {
	force, cancel := context.WithCancel(context.Background())
	cancel()
	for i, life := range s.lives {
		err := within(patience, func() { life.Stop(force) })
		if err != nil {
			return fmt.Errorf("stop of life %d by force: %w", i+1, err)
		}
		if s.Alive(life) {
			return fmt.Errorf("life %d is alive after a stop by force", i+1)
		}
	}
	return nil
}

// exitOf waits for the exit of a life.
func exitOf(ctx context.Context, life pool.Life) (pool.Exit, error) {
	select {
	case e, ok := <-life.Exited():
		if !ok {
			return e, errors.New("Exited was closed without a value")
		}
		return e, nil
	case <-ctx.Done():
		return pool.Exit{}, fmt.Errorf("no exit: %w", ctx.Err())
	}
}

// noExit fails if an exit is delivered that should not be.
func noExit(life pool.Life, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case e, ok := <-life.Exited():
		if ok {
			return fmt.Errorf("unexpected exit %+v", e)
		}
	case <-timer.C:
	}
	return nil
}

// within calls f and fails if that takes longer than d.
func within(d time.Duration, f func()) error {
	done := make(chan struct{})
	go closeAfter(done, f)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return fmt.Errorf("took longer than %v", d)
	}
}

func closeAfter(done chan<- struct{}, f func()) {
	defer close(done)
	f()
}

// together calls f n times at once and returns when all calls have returned.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
