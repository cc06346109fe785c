package pool_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// walk is a world with what must be true of it. Its account of the pool comes
// from the clients, the resource and the events.
type walk struct {
	*world
	cfg     pool.Config
	born    time.Time
	cancels []context.CancelFunc
	hide    *hideout

	reloads       []reload
	stops         []*stopCall
	res           *versions          // hides the world's own
	number        int                // of the newest life's resource
	partingGen    uint64             // the last life that was seen to take nobody any more
	partingLeases int                // ever granted on it
	seen          int                // events accounted for
	openedAt      time.Time          // of the newest life; zero if not opened
	lastPut       time.Time          // of a lease of the newest life
	failures      int                // in a row
	heldUntil     time.Time          // no start before
	lastFail      uint64             // newest start that failed
	ended         uint64             // newest life whose end was accounted for
	awaited       map[*client]uint64 // first start whose failure a waiting client must be told
	least         map[*client]uint64 // no earlier start concerns a client
	back          map[*client]bool   // has given his lease back
	resting       map[*client]bool   // his lease does not keep its life awake
	started       map[string][]time.Time
	spared        uint64 // starts that were given up before the resource knew of them

	quit         bool
	startsAtQuit int // -1 until it is known
	returned     atomic.Bool
}

func newWalk(t reporter, cfg pool.Config, hide *hideout) *walk {
	w := &world{t: t, res: pooltest.New(pooltest.Script{})}
	lives := &versions{Resource: w.res}
	w.use(lives.next(), hide.config(cfg))
	hide.pool = w.Pool
	return &walk{
		world: w, hide: hide, cfg: cfg, born: time.Now(), res: lives,
		awaited: map[*client]uint64{}, least: map[*client]uint64{}, back: map[*client]bool{}, startsAtQuit: -1,
		resting: map[*client]bool{}, started: map[string][]time.Time{},
	}
}

// put gives a lease back, for the first time or again.
func (w *walk) put(c *client) {
	c.Put()
	w.unused(c)
	w.back[c] = true
}

// unused notes that a lease does not keep its life awake from now on.
func (w *walk) unused(c *client) {
	if !w.back[c] && !w.resting[c] && c.lease.Gen() == w.Snapshot().Gen {
		w.lastPut = time.Now()
	}
}

func (w *walk) rest(c *client) {
	c.lease.Rest()
	if c.keeps {
		return // it keeps the life awake all the same
	}
	w.unused(c)
	w.resting[c] = true
}

func (w *walk) rouse(c *client) {
	c.lease.Rouse()
	w.resting[c] = false
}

func (w *walk) waiting() []*client {
	var list []*client
	for _, c := range w.clients {
		if !c.answered() {
			list = append(list, c)
		}
	}
	return list
}

// leaseholders are the clients who were given a lease, also those who have
// given it back.
func (w *walk) leaseholders() []*client {
	var list []*client
	for _, c := range w.clients {
		if c.answered() && c.lease != nil {
			list = append(list, c)
		}
	}
	return list
}

// check looks at every invariant. Nothing moves while it does.
func (w *walk) check(*rapid.T) {
	synctest.Wait()
	s := w.Snapshot()
	w.account()
	w.checkLives(s)
	w.checkClients(s)
	w.checkLeases(s)
	w.checkTimers(s)
	w.checkNumbers(s)
	w.checkQuit(s)
	w.checkVerbs(s)
	for _, rule := range w.hide.rulesBroken() {
		w.that("I6: "+rule, false)
	}
}

// account takes the events since the last step into the account.
func (w *walk) account() {
	all := w.told()
	for _, ev := range all[w.seen:] {
		w.accountSpared(ev)
		switch ev.Kind {
		case pool.EventStarting:
			w.openedAt, w.lastPut = time.Time{}, time.Time{}
			w.that("I12: no start while held back", !ev.at.Before(w.heldUntil))
			w.accountStart(ev)
		case pool.EventOpened:
			w.openedAt = ev.at
		case pool.EventStartFailed:
			w.ended, w.lastFail = ev.Gen, ev.Gen
			w.failed(ev.at)
		default:
			w.accountEnd(ev)
		}
	}
	w.seen = len(all)
}

// accountSpared accounts for a life that is over without having begun: a stop
// that was asked for came first.
func (w *walk) accountSpared(ev told) {
	if number, _ := w.res.ofLife(ev.Gen); ev.Kind == pool.EventClosed && number == 0 {
		w.spared++
		w.that("I4: only a start that is given up is not made", ev.Reason == pool.ReasonAsked || ev.Reason == pool.ReasonQuit)
	}
}

// accountStart accounts for a start by the source of the client who caused it.
func (w *walk) accountStart(ev told) {
	for _, c := range w.clients {
		if c.who == ev.Who {
			w.that("no source starts more than it may", w.mayStart(c.source, ev.at) || w.rateChanged(ev.at))
			w.started[c.source] = append(w.started[c.source], ev.at)
		}
	}
}

// mayStart tells whether a source has started less than it may.
func (w *walk) mayStart(source string, now time.Time) bool {
	recent := 0
	for _, at := range w.started[source] {
		if now.Sub(at) < w.cfg.WakeRate.Per {
			recent++
		}
	}
	return source == "" || w.cfg.WakeRate.N == 0 || recent < w.cfg.WakeRate.N
}

// accountEnd accounts for the first event that tells the end of a life.
func (w *walk) accountEnd(ev told) {
	if w.ended == ev.Gen {
		return
	}
	w.ended = ev.Gen
	if !w.openedAt.IsZero() && ev.at.Sub(w.openedAt) >= pool.StableAfter {
		w.failures = 0
	}
	switch ev.Reason {
	case pool.ReasonCrashed:
		w.failed(ev.at)
	case pool.ReasonIdle:
		w.that("I7: no idle stop too early", w.idleFor(ev.at))
		w.that("I7: no idle stop too late", !ev.at.After(w.idleLast()))
		w.unusedAt(ev)
	case pool.ReasonRoom:
		w.that("I7: no stop of one too young", w.oldEnough(ev.at))
		w.unusedAt(ev)
	}
}

// unusedAt checks that nobody used a life that was left because nobody did.
func (w *walk) unusedAt(ev told) {
	for _, c := range w.leaseholders() {
		w.that("I6: no idle stop under a lease", w.back[c] || w.resting[c] || c.lease.Gen() != ev.Gen)
	}
}

func (w *walk) failed(at time.Time) {
	w.heldUntil = at.Add(pauses[min(w.failures, len(pauses)-1)])
	w.failures++
}

// idleSince is when the newest life was last used.
func (w *walk) idleSince() time.Time {
	last := w.openedAt
	for _, use := range []time.Time{w.lastPut, w.hide.lastUse()} {
		if use.After(last) {
			last = use
		}
	}
	return last
}

// idleEnd is when the newest life is to be stopped for being idle.
func (w *walk) idleEnd() time.Time { return w.idleEndBy(w.cfg) }

func (w *walk) idleEndBy(cfg pool.Config) time.Time {
	end, young := w.idleSince().Add(cfg.Idle), w.openedAt.Add(cfg.MinUptime)
	if young.After(end) {
		return young
	}
	return end
}

// that fails the walk unless ok.
func (w *walk) that(rule string, ok bool) {
	w.t.Helper()
	if !ok {
		w.t.Errorf("broken: %s; %+v", rule, w.Snapshot())
	}
}

// checkLives: one life at most, and the one that the state says (I1-I3).
func (w *walk) checkLives(s pool.Snapshot) {
	w.that("I1: rules of Resource", w.res.Err() == nil)
	alive, spawning := w.res.Alive(), w.res.Starting()
	w.that("I1: one life", len(alive) <= 1)
	if s.State == pool.Closed {
		w.that("I2: closed has no life", len(alive) == 0 && !spawning)
		return
	}
	if len(alive) == 0 {
		w.that("I3: state has its life", spawning && s.State != pool.Opened)
		return
	}
	w.that("I3: the life is the newest", alive[0].Gen() == s.Gen)
	w.that("I3: its process runs", !alive[0].Ended() || s.State == pool.Shutdown)
	equal(w.t, "I4: calls of Start", uint64(w.res.Starts()), s.Gen-w.spared)
}

// checkClients: whoever waits has a reason to, and whoever was told was told
// what concerns him (I9, I10, I12).
func (w *walk) checkClients(s pool.Snapshot) {
	waiting := w.waiting()
	equal(w.t, "I9: waiting", s.Waiting, len(waiting))
	w.that("I10: nobody waits in opened", s.State != pool.Opened || s.Parting != "" || len(waiting) == 0)
	w.that("I14: nobody waits while the pool stops", !w.quit || len(waiting) == 0)
	w.that("I10: a start is due", s.State != pool.Closed || len(w.free()) == 0 || time.Now().Before(w.heldUntil))
	for _, c := range waiting {
		if _, known := w.awaited[c]; !known {
			w.awaited[c] = awaitedIn(s)
		}
		w.that("I12: a failed start is told to all who waited for it", w.lastFail < w.awaited[c])
	}
	for _, c := range w.clients {
		var failure *pool.StartError
		if c.answered() && errors.As(c.err, &failure) {
			w.that("told of a start that concerns him", failure.Gen >= max(w.awaited[c], w.least[c]))
		}
	}
}

// free are the waiting whose source may start a life now.
func (w *walk) free() []*client {
	return slices.DeleteFunc(w.waiting(), func(c *client) bool { return !w.mayStart(c.source, time.Now()) })
}

// awaitedIn is the start that somebody waits for who comes then.
func awaitedIn(s pool.Snapshot) uint64 {
	if s.State == pool.Starting {
		return s.Gen
	}
	return s.Gen + 1
}

// checkLeases: a lease names the life it belongs to, and counts while that
// lives (I5, I6, I9).
func (w *walk) checkLeases(s pool.Snapshot) {
	held, resting, kept, granted := 0, 0, 0, uint64(0)
	for _, c := range w.leaseholders() {
		if !c.keeps {
			granted++
		}
		done := isDone(c)
		inUse := s.State == pool.Opened || s.State == pool.Shutdown
		w.that("I5: a lease of a life that goes on is of the newest", done || inUse && c.lease.Gen() == s.Gen)
		w.that("I5: the life of a lease that is done has ended", !done || s.State != pool.Opened || c.lease.Gen() < s.Gen)
		switch {
		case w.back[c] || done:
		case c.keeps:
			kept++
		default:
			held++
			if w.resting[c] {
				resting++
			}
		}
	}
	equal(w.t, "I9: held", s.Held, kept)
	equal(w.t, "I9: connections", s.Connections, held)
	equal(w.t, "I9: resting", s.Resting, resting)
	equal(w.t, "I9: granted", s.Granted, granted)
}

// checkTimers: a timer is armed exactly when something is to come of it (I7, I11).
func (w *walk) checkTimers(s pool.Snapshot) {
	idle, holdBack := w.Armed()
	unused := s.State == pool.Opened && s.Connections == s.Resting && s.Held == 0 && !w.hide.leased() && !w.quit && s.Parting == ""
	equal(w.t, "I7: idle timer armed", idle, unused && w.cfg.Idle > 0)
	equal(w.t, "I7: idle since a moment", !s.IdleSince.IsZero(), unused)
	equal(w.t, "I7: idle end", !s.IdleEnd.IsZero(), idle)
	w.that("I4: hold-back timer armed for somebody", !holdBack || s.State == pool.Closed && s.Waiting > 0)
	w.that("I4: hold-back timer armed", holdBack || s.State != pool.Closed || len(w.free()) == 0)
	if idle {
		w.that("I11: idle time is not over", time.Now().Before(w.idleLast()))
		equal(w.t, "I7: idle end", s.IdleEnd, w.idleEnd())
	}
	if w.failures > 0 {
		equal(w.t, "I12: held until", s.HeldUntil, w.heldUntil)
	}
}

// checkNumbers: what is counted fits together.
func (w *walk) checkNumbers(s pool.Snapshot) {
	var inState time.Duration
	for _, d := range s.InState {
		inState += d
	}
	equal(w.t, "sum of the states", inState, time.Since(w.born))
	var stops uint64
	for _, n := range s.Stops {
		stops += n
	}
	if s.State == pool.Starting || s.State == pool.Opened {
		stops++
	}
	equal(w.t, "lives ended and living", stops, s.Starts)
}

// shutdownReturns notes when Shutdown has returned.
func (w *walk) shutdownReturns(ctx context.Context) {
	w.Shutdown(ctx)
	w.returned.Store(true)
}

// checkQuit: once the pool stops, nothing is started any more, and Shutdown
// returns exactly when nothing is left (I13, I14).
func (w *walk) checkQuit(s pool.Snapshot) {
	if !w.quit {
		return
	}
	equal(w.t, "I13: Shutdown has returned", w.returned.Load(), s.State == pool.Closed && !w.hide.looking())
	if w.startsAtQuit < 0 {
		w.startsAtQuit = w.res.Starts()
	}
	equal(w.t, "I14: starts", w.res.Starts(), w.startsAtQuit)
}

// longest is longer than any stop, hold-back and start together.
const longest = stopTime + time.Minute + 2*startTimeout + 10*time.Second + ratePer

// checkEnd: whoever waits is answered in bounded time, whatever went before,
// and once everybody has left the pool closes by itself (I10, I11).
func (w *walk) checkEnd() {
	if w.cfg.Idle == 0 {
		w.reload(pool.Config{Idle: idleTime})
	}
	w.res.SetScript(pooltest.Script{Ready: time.Millisecond})
	waited := w.waiting()
	w.pass(longest)
	for _, c := range waited {
		w.that("I10: nobody is stranded", c.answered())
	}
	w.check(nil)
	for _, c := range w.waiting() {
		c.leave(errGone)
	}
	w.settle()
	for _, c := range w.leaseholders() {
		w.put(c)
	}
	w.hide.empty()
	w.check(nil)
	w.pass(longest + w.cfg.Idle + w.cfg.MinUptime)
	w.check(nil)
	w.that("I11: scales to zero", w.Snapshot().State == pool.Closed)
	for _, s := range w.stops {
		w.that("Stop returns", s.returned.Load())
	}
}

// finish ends the world, also after a failure.
func (w *walk) finish() {
	for _, c := range w.clients {
		c.leave(errGone)
	}
	w.end()
	for _, cancel := range w.cancels {
		cancel()
	}
}
