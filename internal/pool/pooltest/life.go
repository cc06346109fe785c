package pooltest

import (
	"context"
	"net"
	"sync"
	"time"

	"tiproxy/internal/pool"
)

// Life is one life of a Resource. Its methods are safe for concurrent use.
type Life struct {
	gen    uint64
	script Script
	exited chan pool.Exit // has room for the one value
	ended  chan struct{}  // closed when the started process has ended
	gone   chan struct{}  // closed when nothing is left

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when ready or never change
	ready   bool
	never   error // why it can never be ready
	polite  int   // stops asked for politely
	forced  int   // stops made by force
	timers  []*time.Timer
}

func newLife(gen uint64, s Script) *Life {
	return &Life{
		gen: gen, script: s,
		exited: make(chan pool.Exit, 1), changed: make(chan struct{}),
		ended: make(chan struct{}), gone: make(chan struct{}),
	}
}

// run arms what the script wants to happen by itself.
func (l *Life) run() {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch s := l.script; {
	case s.Ready == 0:
		l.ready, l.never = s.ReadyError == nil, s.ReadyError
	case s.Ready > 0:
		l.afterLocked(s.Ready, l.becomeReady)
	}
	if l.script.Lives > 0 {
		l.afterLocked(l.script.Lives, l.endByItself)
	}
}

func (l *Life) afterLocked(d time.Duration, what func()) {
	l.timers = append(l.timers, time.AfterFunc(d, what))
}

func (l *Life) becomeReady() {
	if err := l.script.ReadyError; err != nil {
		l.FailReady(err)
		return
	}
	l.SetReady(true)
}

func (l *Life) endByItself() { l.End(l.script.Exit) }

// Gen returns the number the life was started with.
func (l *Life) Gen() uint64 { return l.gen }

// SetReady makes the life take connections, or take none for now.
func (l *Life) SetReady(ready bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready = ready
	l.changeLocked()
}

// FailReady makes the life one that can never be ready, though it lives on.
func (l *Life) FailReady(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.never = err
	l.changeLocked()
}

func (l *Life) changeLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// End lets the started process end. If the exit says that something is left,
// only a stop ends the rest. A process ends once: later calls change nothing.
func (l *Life) End(e pool.Exit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !e.Left {
		l.goneLocked() // before the exit is told, which says so
	}
	l.endLocked(e)
}

func (l *Life) endLocked(e pool.Exit) {
	if isClosed(l.ended) {
		return
	}
	l.exited <- e
	close(l.ended)
}

func (l *Life) goneLocked() {
	if isClosed(l.gone) {
		return
	}
	for _, t := range l.timers {
		t.Stop()
	}
	close(l.gone)
}

// Ended tells whether the started process has ended.
func (l *Life) Ended() bool { return isClosed(l.ended) }

// Gone tells whether nothing of the life is left.
func (l *Life) Gone() bool { return isClosed(l.gone) }

// Stops returns how many stops were asked for politely, and how many by force.
func (l *Life) Stops() (polite, forced int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.polite, l.forced
}

// Ready waits until the life is ready. See pool.Life.
func (l *Life) Ready(ctx context.Context) (net.Addr, error) {
	for {
		l.mu.Lock()
		ready, never, changed := l.ready, l.never, l.changed
		l.mu.Unlock()
		ended := l.ended
		if l.script.Blind {
			ended = nil
		}
		switch {
		case isClosed(ended):
			return nil, ErrEnded
		case never != nil:
			return nil, never
		case ready:
			return Addr(l.gen), nil
		}
		select {
		case <-changed:
		case <-ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Exited delivers the exit. See pool.Life.
func (l *Life) Exited() <-chan pool.Exit { return l.exited }

// Stop ends the life as its script says. See pool.Life.
func (l *Life) Stop(ctx context.Context) {
	if l.Gone() {
		return
	}
	if ctx.Err() == nil {
		l.stopPolitely(ctx)
	}
	if !l.Gone() {
		l.kill()
	}
}

// stopPolitely returns when all is gone, or force is wanted.
func (l *Life) stopPolitely(ctx context.Context) {
	l.mu.Lock()
	l.polite++
	switch d := l.script.Stop; {
	case d == 0:
		l.stopLocked()
	case d > 0:
		l.afterLocked(d, l.obey)
	}
	l.mu.Unlock()
	select {
	case <-l.gone:
	case <-ctx.Done():
	}
}

// obey is the end of a life that was asked to stop.
func (l *Life) obey() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopLocked()
}

func (l *Life) stopLocked() {
	l.goneLocked()
	l.endLocked(pool.Exit{Err: ErrStopped, Status: ErrStopped.Error()})
}

// kill ends all of the life at once.
func (l *Life) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forced++
	l.goneLocked()
	l.endLocked(pool.Exit{Err: ErrKilled, Status: ErrKilled.Error()})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
