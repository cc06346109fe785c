package pool_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// graceTime is how long a hideout takes to look whether it is empty.
const graceTime = 30 * time.Millisecond

// hideout is a kernel that hands clients to the child by itself. It keeps the
// rules of pool.Hidden.
type hideout struct {
	takes time.Duration // how long Retire takes
	holds bool          // it takes a lease for those it finds; otherwise the pool asks again

	mu     sync.Mutex
	pool   *pool.Pool
	gen    uint64 // the life that it leads to, 0 for none
	out    uint64 // the life that was retired, 0 for none
	looks  bool   // Retire goes on, or Return is due
	conns  int
	lease  *pool.Lease
	used   time.Time // when somebody was last found, or the last one left
	broken []string  // rules, by the pool
}

// notify is the pool's Notify.
func (h *hideout) notify(ev pool.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch ev.Kind {
	case pool.EventOpened:
		h.gen = ev.Gen
	case pool.EventShutdown:
		if ev.Reason == pool.ReasonIdle || ev.Reason == pool.ReasonRoom {
			if h.conns > 0 || h.out != ev.Gen {
				h.broken = append(h.broken, "idle stop with somebody hidden, or without Retire")
			}
			h.out, h.looks = 0, false // there is no Return
		}
		h.overLocked()
	case pool.EventClosed:
		h.overLocked()
	}
}

func (h *hideout) overLocked() { h.gen, h.conns, h.lease = 0, 0, nil }

func (h *hideout) Retire(gen uint64) bool {
	h.mu.Lock()
	if h.out != 0 {
		h.broken = append(h.broken, "Retire within Retire")
	}
	h.out, h.looks = gen, true
	h.mu.Unlock()
	<-time.After(h.takes)
	h.mu.Lock()
	alone := h.gen != gen || h.conns == 0
	if !alone {
		h.used = time.Now()
	}
	h.mu.Unlock()
	if !alone && h.holds {
		h.hold(gen)
	}
	return alone
}

func (h *hideout) Return(gen uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.out != gen {
		h.broken = append(h.broken, "Return without Retire")
	}
	h.out, h.looks = 0, false
}

// hold takes the lease for all who are hidden in life gen.
func (h *hideout) hold(gen uint64) {
	l, ok := h.pool.Beside(gen)
	h.mu.Lock()
	defer h.mu.Unlock()
	if ok && h.gen == gen && h.conns > 0 && h.lease == nil {
		h.lease = l
		return
	}
	if ok {
		go h.pool.Put(l) // they have left since
	}
}

// slipIn is a new client whom the pool does not see. It reports false when he
// reaches the pool instead.
func (h *hideout) slipIn() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gen == 0 || h.out == h.gen {
		return false
	}
	h.conns++
	return true
}

// slipOut lets one of the hidden leave, if there is one. When it was the last,
// the idle time runs anew.
func (h *hideout) slipOut() {
	h.mu.Lock()
	if h.conns == 0 {
		h.mu.Unlock()
		return
	}
	h.conns--
	last, gen, l := h.conns == 0, h.gen, h.lease
	if last {
		h.lease, h.used = nil, time.Now()
	}
	h.mu.Unlock()
	if last && l == nil {
		l, _ = h.pool.Beside(gen)
	}
	if last && l != nil {
		h.pool.Put(l)
	}
}

func (h *hideout) empty() {
	for range h.count() {
		h.slipOut()
	}
}

func (h *hideout) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conns
}

// leased tells whether a lease is held for the hidden.
func (h *hideout) leased() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lease != nil
}

// lastUse is when the hideout was last used.
func (h *hideout) lastUse() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.used
}

// looking tells whether Hidden was told Retire and not Return.
func (h *hideout) looking() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.looks
}

// isOut tells whether Hidden was told to retire that life and not Return.
func (h *hideout) isOut(gen uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.out == gen
}

func (h *hideout) rulesBroken() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.broken
}

// hidden returns the hooks of a pool that has a hideout.
func (h *hideout) config(cfg pool.Config) pool.Config {
	cfg.Hidden, cfg.Notify = h, h.notify
	return cfg
}

var hiddenCells = []struct {
	event string
	holds bool
	test  func(w *world, h *hideout)
}{
	{"nobody: the idle stop comes when the look is over", true, func(w *world, _ *hideout) {
		w.toOpened(1)[0].Put()
		w.pass(idleTime + graceTime - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
		w.pass(stopTime)
		w.serves(2, w.one())
	}},
	{"somebody: he keeps the life until he leaves", true, func(w *world, h *hideout) {
		w.toOpened(1)[0].Put()
		equal(w.t, "slipped in", h.slipIn(), true)
		w.pass(10 * idleTime)
		w.isGen(pool.Opened, 1)
		equal(w.t, "slipped in after the look", h.slipIn(), true)
		h.empty()
		w.pass(idleTime + graceTime - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
	}},
	{"somebody for whom no lease is taken: the idle time runs anew", false, func(w *world, h *hideout) {
		w.toOpened(1)[0].Put()
		h.slipIn()
		w.pass(idleTime + graceTime)
		h.conns = 0 // and nobody says so
		w.pass(idleTime + graceTime - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
	}},
	{"somebody, and another idle time by then: it runs anew all the same", false, func(w *world, h *hideout) {
		w.toOpened(1)[0].Put()
		h.slipIn()
		w.pass(idleTime + graceTime/2)
		w.Configure(pool.Config{Idle: idleTime / 2})
		w.Configure(pool.Config{Idle: 2 * idleTime})
		w.pass(graceTime / 2)
		equal(w.t, "idle end", w.Snapshot().IdleEnd, time.Now().Add(2*idleTime))
	}},
	{"new client during the look", true, func(w *world, h *hideout) {
		w.toOpened(1)[0].Put()
		w.pass(idleTime + graceTime/2)
		equal(w.t, "slipped in", h.slipIn(), false)
		c := w.one()
		w.leased(1, c)
		w.pass(10 * idleTime)
		w.isGen(pool.Opened, 1)
		equal(w.t, "slipped in after the look", h.slipIn(), true)
		h.empty()
		c.Put()
		w.pass(idleTime + graceTime)
		w.isGen(pool.Shutdown, 1)
	}},
	{"new client who comes and goes during the look", true, func(w *world, _ *hideout) {
		w.toOpened(1)[0].Put()
		w.pass(idleTime + graceTime/2)
		w.one().Put()
		w.pass(idleTime + graceTime - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
	}},
	{"the child ends during the look", true, func(w *world, h *hideout) {
		w.toOpened(1)[0].Put()
		w.pass(idleTime + graceTime/2)
		w.exit(exit0)
		w.isGen(pool.Closed, 1)
		w.serves(2, w.one())
		w.pass(graceTime)
		w.isGen(pool.Opened, 2)
		equal(w.t, "slipped in", h.slipIn(), true)
	}},
	{"tiproxy stops during the look", true, func(w *world, _ *hideout) {
		w.toOpened(1)[0].Put()
		w.pass(idleTime + graceTime/2)
		done := w.shutdown(context.Background())
		w.isGen(pool.Shutdown, 1)
		equal(w.t, "reason", w.event(pool.EventShutdown).Reason, pool.ReasonQuit)
		w.pass(stopTime)
		w.returned(done, true)
	}},
	{"tiproxy stops with somebody hidden", true, func(w *world, h *hideout) {
		w.toOpened(1)[0].Put()
		h.slipIn()
		h.hold(1)
		equal(w.t, "connections", w.Snapshot().Connections, 0)
		done := w.shutdown(context.Background())
		w.pass(time.Hour)
		w.isGen(pool.Opened, 1)
		h.empty()
		w.isGen(pool.Shutdown, 1)
		w.pass(stopTime)
		w.returned(done, true)
	}},
	{"room needed and nobody: when the look is over", true, func(w *world, _ *hideout) {
		w.toOpened(1)[0].Put()
		w.pass(time.Second)
		gone, ok := w.TryStop(pool.ReasonRoom)
		equal(w.t, "makes room", ok, true)
		equal(w.t, "passed", w.Snapshot().Since, time.Now())
		w.pass(stopTime)
		w.returned(gone, true)
		w.serves(2, w.one())
	}},
	{"room needed and somebody: he stays", true, func(w *world, h *hideout) {
		w.toOpened(1)[0].Put()
		h.slipIn()
		w.room(false)
		equal(w.t, "slipped in after the look", h.slipIn(), true)
		w.pass(10 * idleTime)
		w.isGen(pool.Opened, 1)
	}},
	{"room needed and a new client during the look", true, func(w *world, _ *hideout) {
		w.toOpened(1)[0].Put()
		time.AfterFunc(graceTime/2, func() { w.come() })
		w.room(false)
		w.leased(1, w.clients[1])
	}},
	{"room needed while the idle timer looks: refused", true, func(w *world, _ *hideout) {
		w.toOpened(1)[0].Put()
		w.pass(idleTime + graceTime/2)
		w.room(false)
		w.pass(graceTime / 2)
		w.isGen(pool.Shutdown, 1)
	}},
	{"the idle time is over while it is looked for room", true, func(w *world, h *hideout) {
		w.toOpened(1)[0].Put()
		w.pass(idleTime - graceTime/2)
		c := w.come()
		w.settle()
		c.Put()
		w.pass(idleTime - graceTime/2)
		time.AfterFunc(graceTime/4, func() { w.one().Put() })
		w.TryStop(pool.ReasonRoom)
		w.isGen(pool.Shutdown, 1)
	}},
	{"stop asked for, and nobody", true, func(w *world, h *hideout) {
		w.toOpened(1)[0].Put()
		done := w.stopLife(context.Background())
		w.isGen(pool.Opened, 1)
		equal(w.t, "slipped in", h.slipIn(), false)
		w.pass(graceTime)
		w.isGen(pool.Shutdown, 1)
		late := w.one()
		w.pass(stopTime)
		w.returned(done, true)
		w.serves(2, late)
		equal(w.t, "slipped in", h.slipIn(), true)
	}},
	{"stop asked for with somebody hidden: he may finish", true, func(w *world, h *hideout) {
		w.toOpened(1)[0].Put()
		h.slipIn()
		done := w.stopLife(context.Background())
		w.pass(time.Hour)
		w.isGen(pool.Opened, 1)
		equal(w.t, "slipped in", h.slipIn(), false)
		late := w.one()
		w.waits(late)
		h.empty()
		w.isGen(pool.Shutdown, 1)
		w.pass(stopTime)
		w.returned(done, true)
		w.serves(2, late)
	}},
	{"stop asked for with somebody hidden: until the time is over", true, func(w *world, h *hideout) {
		w.toOpened(1)[0].Put()
		h.slipIn()
		w.stopLife(drain())
		w.pass(drainTime - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
	}},
	{"stop asked for during a look", true, func(w *world, h *hideout) {
		w.toOpened(1)[0].Put()
		w.pass(idleTime + graceTime/2)
		w.stopLife(context.Background())
		w.pass(graceTime/2 + graceTime - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
		equal(w.t, "reason", w.event(pool.EventShutdown).Reason, pool.ReasonAsked)
	}},
	{"stop asked for, and the child ends during the look", true, func(w *world, h *hideout) {
		w.toOpened(1)[0].Put()
		done := w.stopLife(context.Background())
		w.pass(graceTime / 2)
		w.exit(exit0)
		w.returned(done, false) // Return is due
		w.serves(2, w.one())
		w.pass(graceTime)
		w.returned(done, true)
		equal(w.t, "slipped in", h.slipIn(), true)
		w.isGen(pool.Opened, 2)
	}},
	{"lease of a life that is over", true, func(w *world, _ *hideout) {
		w.toOpened(1)
		w.exit(exit0)
		w.serves(2, w.one())
		_, ok := w.Beside(1)
		equal(w.t, "got a lease", ok, false)
		l, ok := w.Beside(2)
		equal(w.t, "got a lease", ok, true)
		equal(w.t, "granted", w.Snapshot().Granted, 2)
		w.Put(l)
	}},
}

func TestHiddenConnections(t *testing.T) {
	for _, c := range hiddenCells {
		t.Run(c.event, func(t *testing.T) {
			h := &hideout{takes: graceTime, holds: c.holds}
			cfg := h.config(pool.Config{Idle: idleTime, StartTimeout: startTimeout})
			playWith(t, cfg, slowly, func(w *world) {
				h.pool = w.Pool
				c.test(w, h)
				for _, rule := range h.rulesBroken() {
					t.Error("broken:", rule)
				}
			})
		})
	}
}

// While one look goes on, the next alarm fires: they follow one another.
func TestHiddenConnections_IdleTimeShorterThanTheLook(t *testing.T) {
	h := &hideout{takes: graceTime, holds: true}
	playWith(t, h.config(pool.Config{Idle: 1}), pooltest.Script{}, func(w *world) {
		h.pool = w.Pool
		c := w.one()
		c.Put()
		w.pass(graceTime / 2) // the look goes on
		w.one().Put()
		w.pass(graceTime / 4) // the next alarm has fired
		w.isGen(pool.Opened, 1)
		w.pass(graceTime / 4)
		w.isGen(pool.Opened, 1)
		w.pass(graceTime + 2)
		w.isGen(pool.Closed, 1)
		equal(t, "rules broken", len(h.rulesBroken()), 0)
	})
}

// A look for a life goes on although that life is over, and the idle time of the
// next one ends meanwhile: whoever has asked has nothing to do with that.
func TestHiddenConnections_IdleTimeOfTheNextLife(t *testing.T) {
	for _, c := range []struct {
		asked string
		ask   func(w *world) (ok bool)
		ok    bool
	}{
		{"room", func(w *world) bool { _, ok := w.TryStop(pool.ReasonRoom); return ok }, false},
		{"stop", func(w *world) bool { w.Stop(context.Background(), pool.ReasonAsked); return true }, true},
	} {
		t.Run(c.asked, func(t *testing.T) {
			h := &hideout{takes: graceTime, holds: true}
			playWith(t, h.config(pool.Config{Idle: graceTime / 3}), slowly, func(w *world) {
				h.pool = w.Pool
				w.toOpened(1)[0].Put()
				done, ok := make(chan struct{}), false
				go func() {
					defer close(done)
					ok = c.ask(w)
				}()
				w.settle()
				w.exit(exit0)
				next := w.one()
				w.serves(2, next)
				next.Put()
				w.pass(graceTime)
				w.returned(done, true)
				equal(t, "was it", ok, c.ok)
				w.isGen(pool.Opened, 2)
				w.pass(graceTime)
				w.isGen(pool.Shutdown, 2)
				equal(t, "reason", w.event(pool.EventShutdown).Reason, pool.ReasonIdle)
				equal(t, "rules broken", len(h.rulesBroken()), 0)
			})
		})
	}
}
