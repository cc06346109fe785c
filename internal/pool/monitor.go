package pool

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
)

const (
	// firstHoldBack is the pause before the start that follows the second
	// failure in a row; it doubles up to maxHoldBack.
	firstHoldBack = time.Second
	maxHoldBack   = time.Minute
	// stableAfter is how long a life must have been opened for its failures
	// to be forgotten.
	stableAfter = 10 * time.Second
	// exitGrace is how long the exit of a life may lag behind the readiness
	// probe's word that the life has ended.
	exitGrace = 50 * time.Millisecond
)

// monitor carries one life from its start until everything of it is gone. It
// makes all changes of state of that life but the decision to leave starting
// or opened, and tells all its events. It ends when the life is gone.
func (p *Pool) monitor(r *run) {
	defer close(r.told)
	<-r.prev // the end of the life before is told first
	p.tell(p.event(r, EventStarting))

	exit, ready := p.start(r)
	if ready {
		exit = p.serve(r)
	}
	if p.stopping(r) {
		p.tell(p.event(r, EventShutdown))
		r.life.Stop(p.force)
	}
	if exit == nil && r.life != nil {
		e := <-r.life.Exited()
		exit = &e
	}
	p.gone(r)
	ev := p.event(r, EventClosed)
	ev.Err = r.crash
	if exit != nil {
		ev.Exit = *exit
	}
	p.tell(ev)
}

// start brings the life into being and waits until it is ready. It returns the
// exit of a life that ended meanwhile.
func (p *Pool) start(r *run) (exit *Exit, ready bool) {
	defer r.giveUp(nil)
	ctx := r.ctx
	if ctx.Err() != nil {
		return nil, false // it was given up since
	}
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, r.timeout, ReasonTimeout)
		defer cancel()
	}
	life, err := r.res.Start(ctx, r.gen)
	if err != nil {
		p.failed(r, r.explain(ctx, err), nil)
		return nil, false
	}
	p.born(r, life)
	go r.await(ctx)
	if exit = r.outcome(ctx); exit != nil {
		p.failed(r, exitError(*exit), exit)
		r.giveUp(nil)
		<-r.answered
		return exit, false
	}
	if r.err != nil {
		p.failed(r, r.explain(ctx, r.err), nil)
		return nil, false
	}
	return nil, p.open(r)
}

// born shows a life to those who look.
func (p *Pool) born(r *run, life Life) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.life = life
}

// explain tells a start that ran out of time from one that failed by itself.
func (r *run) explain(ctx context.Context, err error) error {
	switch {
	case context.Cause(ctx) != ReasonTimeout:
	case errors.Is(err, ReasonTimeout): // the resource has said so
		return fmt.Errorf("not ready after %v: %w", r.timeout, err)
	default:
		return fmt.Errorf("not ready after %v (%w): %w", r.timeout, ReasonTimeout, err)
	}
	return err
}

// await asks the life whether it is ready. It ends with the answer, at the
// latest soon after ctx is done.
func (r *run) await(ctx context.Context) {
	r.addr, r.err = r.life.Ready(ctx)
	close(r.answered)
}

// outcome waits for the answer or the exit. It returns the exit of a life that
// has ended, whatever the answer was: a program that takes connections and goes
// into the background is not ready, and what an exit says is better than what
// the readiness probe has seen of it. So a bad answer waits for it a little.
func (r *run) outcome(ctx context.Context) *Exit {
	select {
	case e := <-r.life.Exited():
		return &e
	case <-r.answered:
	}
	select {
	case e := <-r.life.Exited():
		return &e
	default:
	}
	if r.err == nil {
		return nil
	}
	grace := time.NewTimer(exitGrace)
	defer grace.Stop()
	select {
	case e := <-r.life.Exited():
		return &e
	case <-grace.C:
	case <-ctx.Done():
	}
	return nil
}

// exitError is why a start failed whose process ended before it was ready.
func exitError(e Exit) error {
	switch {
	case e.StartErr != nil:
		return e.StartErr
	case e.Err != nil:
		return e.Err
	}
	return fmt.Errorf("ended with %s before it was ready", e.Status)
}

// open makes the life available, unless it was decided meanwhile to stop it.
func (p *Pool) open(r *run) bool {
	p.mu.Lock()
	if p.state != Starting {
		p.mu.Unlock()
		return false
	}
	r.opened = time.Now()
	ev := p.eventLocked(r, EventOpened)
	p.history.start(r, nil)
	p.setLocked(Opened, r)
	p.settleLocked()
	p.mu.Unlock()
	runtime.Gosched() // those who have waited go first: telling takes longer than they need
	p.tell(ev)
	return true
}

// serve waits until an opened life ends or is to be stopped. It returns the
// exit in the first case and nil in the second.
func (p *Pool) serve(r *run) *Exit {
	select {
	case <-r.stop:
		return nil
	case e := <-r.life.Exited():
		p.ended(r, e)
		return &e
	}
}

// ended takes note of a life whose process ended while opened. If it was
// decided at the same moment to stop it, that stop goes on: the exit is then
// no failure.
func (p *Pool) ended(r *run, e Exit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(r.ended)
	if p.state != Opened {
		return
	}
	p.disarmLocked()
	p.forgiveLocked(r)
	r.reason, r.crash = ReasonExited, e.Err
	if r.crash != nil {
		r.reason = ReasonCrashed
		p.failureLocked(r.crash)
	}
	p.stats.stop(r.reason)
	p.endLocked(e.Left)
}

// failed takes note of a start that failed and tells all who waited for it. A
// start that was given up because it is to be stopped is no failure.
func (p *Pool) failed(r *run, err error, exit *Exit) {
	p.mu.Lock()
	if p.state != Starting {
		p.mu.Unlock()
		return
	}
	p.failure = &StartError{Gen: r.gen, Err: err}
	r.reason = ReasonNotReady
	if errors.Is(err, ReasonTimeout) {
		r.reason = ReasonTimeout
	}
	p.stats.failed++
	p.stats.stop(r.reason)
	p.failureLocked(err)
	p.history.start(r, err)
	ev := p.eventLocked(r, EventStartFailed)
	ev.Err = p.failure
	p.endLocked(r.life != nil && (exit == nil || exit.Left))
	p.mu.Unlock()
	p.tell(ev)
}

// endLocked leaves starting or opened: for shutdown while something of the
// life is left, for closed otherwise.
func (p *Pool) endLocked(left bool) {
	r := p.run
	if left {
		p.setLocked(Shutdown, r)
		return
	}
	p.run = nil
	p.setLocked(Closed, r)
}

// forgiveLocked forgets the failures of the past after a life that was opened
// for long enough.
func (p *Pool) forgiveLocked(r *run) {
	if p.state == Opened && time.Since(r.opened) >= stableAfter {
		p.failures = 0
	}
}

// failureLocked counts a failure and holds the next start back accordingly.
func (p *Pool) failureLocked(err error) {
	p.failures++
	p.notBefore = time.Now().Add(holdBack(p.failures))
	p.stats.lastErr = err
}

// holdBack is the pause before the start that follows so many failures in a
// row: none after the first, then 1 s, 2 s, 4 s … 1 min.
func holdBack(failures int) time.Duration {
	if failures < 2 {
		return 0
	}
	d := firstHoldBack
	for range failures - 2 {
		if d *= 2; d >= maxHoldBack {
			return maxHoldBack
		}
	}
	return d
}

// stopping tells whether something of the life has to be stopped.
func (p *Pool) stopping(r *run) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state == Shutdown && p.run == r && r.life != nil
}

// gone closes the pool if that has not happened: nothing of the life exists.
func (p *Pool) gone(r *run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !r.isEnded() {
		close(r.ended)
	}
	if p.run == r {
		p.run = nil
		p.setLocked(Closed, r)
	}
}

// event describes what just happened to a life.
func (p *Pool) event(r *run, kind EventKind) Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.eventLocked(r, kind)
}

// eventLocked is event for a caller who holds the lock because it is about to
// wake those whom the event counts as waiting.
func (p *Pool) eventLocked(r *run, kind EventKind) Event {
	ev := Event{
		Kind: kind, Gen: r.gen, Life: r.life, Who: r.who, Waiting: p.waiting,
		Reason: r.reason, Uptime: time.Since(r.started),
	}
	if !r.opened.IsZero() {
		ev.Took, ev.Addr = r.opened.Sub(r.started), r.addr
	}
	return ev
}

// tell passes an event on. Only the monitor of the life calls it.
func (p *Pool) tell(ev Event) {
	if p.notify != nil {
		p.notify(ev)
	}
}
