package pool_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// walks is how many random walks each of the walkers makes, a hundred in one
// check of rapid. -rapid.checks=1000 makes ten times as many.
const (
	walks   = 500
	walkers = 2
)

// Random walks over clients, children, time and Shutdown: whatever happens, in
// whatever order, the invariants hold after every step.
func TestRandomWalks(t *testing.T) {
	n := walks
	if testing.Short() {
		n /= 10
	}
	for range walkers {
		t.Run("walker", func(t *testing.T) {
			t.Parallel()
			for range n / 100 {
				rapid.Check(t, func(rt *rapid.T) { rapid.SyncTest(rt, randomWalk) })
			}
		})
	}
}

func randomWalk(t *rapid.T) {
	cfg := pool.Config{
		Idle:         rapid.SampledFrom([]time.Duration{1, 5 * time.Second, idleTime}).Draw(t, "idle"),
		StartTimeout: rapid.SampledFrom([]time.Duration{time.Second, startTimeout}).Draw(t, "startTimeout"),
		MinUptime:    rapid.SampledFrom([]time.Duration{0, 0, youth}).Draw(t, "minUptime"),
		WakeRate:     rapid.SampledFrom(rates).Draw(t, "wakeRate"),
	}
	hide := &hideout{
		takes: rapid.SampledFrom([]time.Duration{0, graceTime}).Draw(t, "look"),
		// Asked again after every nanosecond, a walk would not come to its end.
		holds: rapid.Bool().Draw(t, "holds") || cfg.Idle < graceTime,
	}
	w := newWalk(t, cfg, hide)
	defer w.finish()
	w.Script(t)
	t.Repeat(map[string]func(*rapid.T){
		"":         w.check,
		"arrive":   w.alone(w.Arrive),
		"leave":    w.alone(w.Leave),
		"put":      w.alone(w.PutOne),
		"rest":     w.alone(w.RestOne),
		"rouse":    w.alone(w.RouseOne),
		"try":      w.alone(w.Try),
		"slip in":  w.alone(w.SlipIn),
		"slip out": w.alone(w.SlipOut),
		"lurk":     w.Lurk,
		"ready":    w.alone(w.BecomeReady),
		"never":    w.alone(w.NeverReady),
		"exit":     w.alone(w.Exit),
		"script":   w.Script,
		"pass":     w.Pass,
		"together": w.Together,
		"hold":     w.alone(w.Hold),
		"end life": w.EndLife,
		"room":     w.alone(w.Room),
		"reload":   w.alone(w.Reload),
		"replace":  w.alone(w.Replace),
		"stop":     w.alone(w.Quit),
		"kill":     w.alone(w.KillAll),
	})
	w.checkEnd()
}

// alone makes an action a step of its own: everything that follows from it has
// happened when it returns.
func (w *walk) alone(action func(*rapid.T)) func(*rapid.T) {
	return func(t *rapid.T) {
		action(t)
		synctest.Wait()
	}
}

// Together makes several things happen at the same moment, so that the pool
// learns of them in any order.
func (w *walk) Together(t *rapid.T) {
	actions := []func(*rapid.T){w.Arrive, w.Leave, w.PutOne, w.RestOne, w.RouseOne, w.Try, w.SlipIn, w.SlipOut, w.BecomeReady, w.NeverReady, w.Exit, w.Hold, w.DrainLife, w.Room, w.Reload, w.Replace, w.Quit}
	for range rapid.IntRange(2, 4).Draw(t, "events") {
		actions[rapid.IntRange(0, len(actions)-1).Draw(t, "event")](t)
	}
	if rapid.Bool().Draw(t, "and time passes") {
		w.Pass(t)
	}
	synctest.Wait()
}

// moments are the times at which something may be due.
func (w *walk) moments() []time.Duration {
	return []time.Duration{
		1, 10 * time.Millisecond, pool.ExitGrace, time.Second - 1, time.Second, bootTime,
		stopTime - 1, stopTime, w.cfg.StartTimeout - 1, w.cfg.StartTimeout,
		w.cfg.Idle - 1, w.cfg.Idle, w.cfg.Idle + 1, time.Minute,
		w.cfg.MinUptime + 1, ratePer - 1, ratePer, graceTime - 1, graceTime,
	}
}

var rates = []pool.Rate{{}, {N: 1, Per: ratePer}, {N: 2, Per: ratePer}}

func (w *walk) Pass(t *rapid.T) {
	<-time.After(rapid.SampledFrom(w.moments()).Draw(t, "pass"))
	synctest.Wait()
}

func (w *walk) Arrive(t *rapid.T) {
	for range rapid.IntRange(1, 3).Draw(t, "clients") {
		ctx := context.Background()
		if rapid.IntRange(0, 3).Draw(t, "impatient") == 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, rapid.SampledFrom(w.moments()).Draw(t, "patience"))
			w.cancels = append(w.cancels, cancel)
		}
		s := w.Snapshot()
		source := rapid.SampledFrom([]string{"", "10.0.0.0/24", "10.0.1.0/24"}).Draw(t, "source")
		w.least[w.comeFrom(ctx, source)] = awaitedIn(s)
	}
}

func (w *walk) Leave(t *rapid.T) {
	if c := pick(t, w.waiting()); c != nil {
		c.leave(errGone)
	}
}

func (w *walk) PutOne(t *rapid.T) {
	if c := pick(t, w.leaseholders()); c != nil {
		w.put(c)
	}
}

func (w *walk) RestOne(t *rapid.T) {
	if c := pick(t, w.leaseholders()); c != nil {
		w.rest(c)
	}
}

func (w *walk) RouseOne(t *rapid.T) {
	if c := pick(t, w.leaseholders()); c != nil {
		w.rouse(c)
	}
}

func (w *walk) SlipIn(t *rapid.T) {
	if !w.hide.slipIn() {
		w.Arrive(t)
	}
}

// Lurk leads to the moment at which the pool asks who is hidden: everybody
// else leaves, and the idle time passes. Something happens during the look.
func (w *walk) Lurk(t *rapid.T) {
	for range rapid.IntRange(0, 2).Draw(t, "hidden") {
		w.hide.slipIn()
	}
	for _, c := range w.leaseholders() {
		w.put(c)
	}
	synctest.Wait()
	if idle, _ := w.Armed(); !idle {
		return
	}
	<-time.After(time.Until(w.idleEnd()) + rapid.SampledFrom([]time.Duration{-1, 0, 1, graceTime / 2}).Draw(t, "late"))
	w.Together(t)
}

func (w *walk) SlipOut(*rapid.T) { w.hide.slipOut() }

func (w *walk) Try(*rapid.T) {
	if l, ok := w.TryGet(); ok {
		c := &client{w: w.world, who: "try", done: make(chan struct{}), lease: l, leave: func(error) {}}
		close(c.done)
		w.clients = append(w.clients, c)
	}
}

func (w *walk) BecomeReady(*rapid.T) {
	if l := w.res.Last(); l != nil {
		l.SetReady(true)
	}
}

func (w *walk) NeverReady(*rapid.T) {
	if l := w.res.Last(); l != nil {
		l.FailReady(errors.New("somebody else listens"))
	}
}

func (w *walk) Exit(t *rapid.T) {
	if l := w.res.Last(); l != nil {
		l.End(rapid.SampledFrom(exits).Draw(t, "exit"))
	}
}

var exits = []pool.Exit{exit0, exit3, exit0L, exit3L}

// Script changes how the lives behave that are started from now on.
func (w *walk) Script(t *rapid.T) {
	s := pooltest.Script{
		Spawn: rapid.SampledFrom([]time.Duration{0, 0, time.Second}).Draw(t, "spawn"),
		Ready: rapid.SampledFrom([]time.Duration{0, pooltest.Manual, bootTime, w.cfg.StartTimeout}).Draw(t, "ready"),
		Lives: rapid.SampledFrom([]time.Duration{0, 0, 0, bootTime, stopTime + bootTime, w.cfg.Idle}).Draw(t, "lives"),
		Exit:  rapid.SampledFrom(exits).Draw(t, "exit"),
		Stop:  rapid.SampledFrom([]time.Duration{0, stopTime}).Draw(t, "stop"),
	}
	switch rapid.IntRange(0, 7).Draw(t, "broken") {
	case 1:
		s.SpawnError = errors.New("no such program")
	case 2:
		s.ReadyError = errors.New("somebody else listens")
	}
	w.res.SetScript(s)
}

// Quit is seldom: a walk is over after it.
func (w *walk) Quit(t *rapid.T) {
	if rapid.IntRange(0, 5).Draw(t, "really") != 1 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), rapid.SampledFrom(w.moments()).Draw(t, "drain"))
	w.cancels = append(w.cancels, cancel)
	w.quit = true
	go w.shutdownReturns(ctx)
}

func (w *walk) KillAll(t *rapid.T) {
	if rapid.IntRange(0, 5).Draw(t, "really") == 1 {
		w.Kill()
	}
}

// pick draws one of the clients, or nil if there is none.
func pick(t *rapid.T, clients []*client) *client {
	if len(clients) == 0 {
		return nil
	}
	return clients[rapid.IntRange(0, len(clients)-1).Draw(t, "which")]
}
