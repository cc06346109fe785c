package pool_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// What operators do in a walk, and what must be true of it.

var (
	idles      = []time.Duration{0, 1, 5 * time.Second, idleTime}
	minUptimes = []time.Duration{0, 0, youth}
)

// reload is one call of Configure.
type reload struct {
	before pool.Config
	at     time.Time
	rate   bool // the wake rate is another one
}

// stopCall is one call of Stop.
type stopCall struct {
	gen      uint64 // of the life it is for; 0 if that is not known
	end      time.Time
	returned atomic.Bool
}

// versions are resources that differ in their number and share their account.
type versions struct {
	*pooltest.Resource

	mu     sync.Mutex
	number int
	of     map[uint64]int // the number of each life
}

// version is one of them.
type version struct {
	all    *versions
	number int
}

func (v *versions) next() version {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.number++
	return version{v, v.number}
}

func (v version) Start(ctx context.Context, gen uint64) (pool.Life, error) {
	v.all.mu.Lock()
	if v.all.of == nil {
		v.all.of = map[uint64]int{}
	}
	v.all.of[gen] = v.number
	v.all.mu.Unlock()
	return v.all.Resource.Start(ctx, gen)
}

// ofLife returns the number of a life, 0 before its start.
func (v *versions) ofLife(gen uint64) (number, newest int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.of[gen], v.number
}

func (w *walk) Hold(t *rapid.T) { w.holds(context.Background()) }

func (w *walk) holds(ctx context.Context) {
	s := w.Snapshot()
	w.least[w.admit(ctx, &client{keeps: true})] = awaitedIn(s)
}

// EndLife is a Stop of which it is known what life it is for.
func (w *walk) EndLife(t *rapid.T) {
	s := w.Snapshot()
	call := w.drainLife(rapid.SampledFrom(w.moments()).Draw(t, "drain"))
	if s.State != pool.Closed {
		call.gen = s.Gen
	}
	synctest.Wait()
}

func (w *walk) DrainLife(t *rapid.T) { w.drainLife(rapid.SampledFrom(w.moments()).Draw(t, "drain")) }

func (w *walk) drainLife(drain time.Duration) *stopCall {
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	w.cancels = append(w.cancels, cancel)
	call := &stopCall{end: time.Now().Add(drain)}
	w.stops = append(w.stops, call)
	go w.stopReturns(ctx, call)
	return call
}

func (w *walk) stopReturns(ctx context.Context, call *stopCall) {
	w.world.Stop(ctx, pool.ReasonAsked)
	call.returned.Store(true)
}

func (w *walk) Room(*rapid.T) { w.makeRoom() }

func (w *walk) makeRoom() { go w.tryStop() }

// tryStop looks that an answer is true, however long that takes.
func (w *walk) tryStop() {
	gone, ok := w.TryStop(pool.ReasonRoom)
	if !ok {
		return
	}
	<-gone
	s := w.Snapshot()
	w.that("room was made", s.Stops[pool.ReasonRoom]+s.Stops[pool.ReasonIdle] > 0)
}

func (w *walk) Reload(t *rapid.T) {
	w.reload(pool.Config{
		Idle:         rapid.SampledFrom(idles).Draw(t, "idle"),
		StartTimeout: w.cfg.StartTimeout,
		MinUptime:    rapid.SampledFrom(minUptimes).Draw(t, "minUptime"),
		WakeRate:     rapid.SampledFrom(rates).Draw(t, "wakeRate"),
	})
}

func (w *walk) reload(cfg pool.Config) {
	if cfg.StartTimeout = w.cfg.StartTimeout; cfg.Idle == 1 && !w.hide.holds {
		cfg.Idle = graceTime // see randomWalk
	}
	w.reloads = append(w.reloads, reload{w.cfg, time.Now(), cfg.WakeRate != w.cfg.WakeRate})
	w.Configure(cfg)
	w.cfg = cfg
}

func (w *walk) Replace(*rapid.T) { w.SetResource(w.res.next()) }

// inForce are the configurations that were in force at a moment: more than one
// if it was changed then.
func (w *walk) inForce(at time.Time) []pool.Config {
	cfgs := []pool.Config{w.cfg}
	for _, r := range w.reloads {
		if !r.at.Before(at) {
			cfgs = append(cfgs, r.before)
		}
	}
	return cfgs
}

// rateChanged tells whether there was another wake rate lately: the pool then
// remembers less, or has allowed more, than it would.
func (w *walk) rateChanged(at time.Time) bool {
	for _, r := range w.reloads {
		if r.rate && at.Sub(r.at) <= ratePer {
			return true
		}
	}
	return false
}

// idleFor tells whether the idle time was over at a moment, and the look for
// hidden ones.
func (w *walk) idleFor(at time.Time) bool {
	for _, cfg := range w.inForce(at) {
		if cfg.Idle > 0 && !at.Before(w.idleEndBy(cfg).Add(w.hide.takes)) {
			return true
		}
	}
	return false
}

// oldEnough tells whether a life may be stopped at a moment, for its age.
func (w *walk) oldEnough(at time.Time) bool {
	for _, cfg := range w.inForce(at) {
		if at.Sub(w.openedAt) >= cfg.MinUptime {
			return true
		}
	}
	return false
}

// idleLast is when an idle life is stopped at the latest. A change of the
// configuration may have ended its time at once, and a look may have to wait
// for the one before it.
func (w *walk) idleLast() time.Time {
	end := w.idleEnd()
	for _, r := range w.reloads {
		if before := w.idleEndBy(r.before); r.before.Idle > 0 && before.After(end) && r.at.Equal(time.Now()) {
			end = before
		}
		if r.at.After(end) {
			end = r.at
		}
	}
	return end.Add(2 * w.hide.takes)
}

// checkVerbs: a stop that was asked for is bounded, returns exactly when its
// life is gone, and lets nobody in; and every life is of the resource that was
// the one then.
func (w *walk) checkVerbs(s pool.Snapshot) {
	for _, stop := range w.stops {
		if stop.gen == 0 {
			continue
		}
		over := s.Gen > stop.gen || s.State == pool.Closed
		w.that("Stop waits for the end", over || !stop.returned.Load())
		w.that("Stop returns after it", !over || stop.returned.Load() || w.hide.isOut(stop.gen)) // the one that asked tells Return first
		goesOn := s.Gen == stop.gen && (s.State == pool.Starting || s.State == pool.Opened)
		w.that("a stop gives a start up", !goesOn || s.State == pool.Opened)
		w.that("a stop is bounded", !goesOn || time.Now().Before(stop.end.Add(2*w.hide.takes)))
		w.that("a stopped life takes nobody", !goesOn || s.Parting != "")
	}
	_, ok := s.Life.(*pooltest.Life)
	w.that("the life is shown", ok || s.State != pool.Opened)
	if number, newest := w.res.ofLife(s.Gen); number > 0 {
		w.that("resources follow one another", number >= w.number && number <= newest)
		w.number = number
	}
	if s.Parting != "" && s.Gen == w.partingGen {
		equal(w.t, "leases of a life that takes nobody", w.leasesOf(s.Gen), w.partingLeases)
	}
	if s.Parting != "" {
		w.partingGen, w.partingLeases = s.Gen, w.leasesOf(s.Gen)
	}
}

func (w *walk) leasesOf(gen uint64) int {
	n := 0
	for _, c := range w.leaseholders() {
		if c.lease.Gen() == gen {
			n++
		}
	}
	return n
}
