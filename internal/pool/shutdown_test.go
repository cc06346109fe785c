package pool_test

import (
	"context"
	"testing"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

const drainTime = 5 * time.Second

// drain returns a context that ends after drainTime.
func drain() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(drainTime, cancel)
	return ctx
}

// Connections may finish until the context is done; then the life is stopped
// under them.
func TestDrainIsBounded(t *testing.T) {
	play(t, slowly, func(w *world) {
		c := w.toOpened(2)
		done := w.shutdown(drain())
		w.pass(drainTime - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
		equal(w.t, "connections", w.Snapshot().Connections, 2)
		equal(w.t, "lease done", isDone(c[0]), false)
		w.pass(stopTime - 1)
		w.returned(done, false)
		w.pass(1)
		w.returned(done, true)
		equal(w.t, "lease done", isDone(c[0]), true)
		equal(w.t, "reason", w.event(pool.EventShutdown).Reason, pool.ReasonQuit)
		c[0].Put()
	})
}

func TestDrainEndsWithTheLastLease(t *testing.T) {
	play(t, pooltest.Script{}, func(w *world) {
		c := w.arrive(2)
		done := w.shutdown(drain())
		w.pass(time.Second)
		c[0].Put()
		w.returned(done, false)
		w.pass(time.Second)
		c[1].Put()
		w.returned(done, true)
	})
}

func TestDrainEndsWithTheChild(t *testing.T) {
	play(t, pooltest.Script{}, func(w *world) {
		w.one()
		done := w.shutdown(drain())
		w.exit(exit3)
		w.returned(done, true)
		w.toldErr(pool.ErrShutdown, w.one())
	})
}

// The idle timer has no say once the pool stops: no matter how long the drain
// takes, the reason is the stop.
func TestNoIdleStopDuringDrain(t *testing.T) {
	play(t, slowly, func(w *world) {
		c := w.toOpened(2)
		c[0].Put()
		done := w.shutdown(context.Background())
		w.pass(2 * idleTime)
		w.isGen(pool.Opened, 1)
		c[1].Put()
		w.isGen(pool.Shutdown, 1)
		equal(w.t, "reason", w.event(pool.EventShutdown).Reason, pool.ReasonQuit)
		w.pass(stopTime)
		w.returned(done, true)
	})
}

// Shutdown may be called any number of times; the shortest drain counts, and
// all calls return when nothing is left.
func TestShutdownTwice(t *testing.T) {
	play(t, slowly, func(w *world) {
		w.toOpened(1)
		first := w.shutdown(context.Background())
		second := w.shutdown(drain())
		w.pass(time.Second)
		third := w.shutdown(ended())
		w.isGen(pool.Shutdown, 1)
		w.pass(stopTime - 1)
		w.returned(first, false)
		w.returned(second, false)
		w.returned(third, false)
		w.pass(1)
		w.returned(first, true)
		w.returned(second, true)
		w.returned(third, true)
		w.returned(w.shutdown(context.Background()), true)
		equal(w.t, "stops", w.Snapshot().Stops[pool.ReasonQuit], 1)
	})
}

// Shutdown returns only after the last event was told.
func TestShutdownReturnsAfterTheLastEvent(t *testing.T) {
	var hold chan struct{} // made in the bubble, where it is used
	cfg := pool.Config{Notify: func(ev pool.Event) {
		if ev.Kind == pool.EventClosed {
			<-hold
		}
	}}
	playWith(t, cfg, pooltest.Script{}, func(w *world) {
		hold = make(chan struct{})
		w.one().Put()
		done := w.shutdown(context.Background())
		w.isGen(pool.Closed, 1)
		w.returned(done, false)
		close(hold)
		w.returned(done, true)
	})
}

// Kill hurries the stop that is under way, and every later one, and begins none.
func TestKill(t *testing.T) {
	stubborn := pooltest.Script{Stop: pooltest.Manual}
	t.Run("while a life is in use", func(t *testing.T) {
		play(t, stubborn, func(w *world) {
			c := w.one()
			w.Kill()
			w.pass(time.Hour)
			w.isGen(pool.Opened, 1)
			c.Put()
			w.pass(idleTime)
			w.isGen(pool.Closed, 1)
			polite, forced := w.life().Stops()
			equal(w.t, "polite stops", polite, 0)
			equal(w.t, "stops by force", forced, 1)
		})
	})
	t.Run("during a stop", func(t *testing.T) {
		play(t, stubborn, func(w *world) {
			w.one().Put()
			w.pass(idleTime)
			c := w.one()
			w.pass(time.Hour)
			w.isGen(pool.Shutdown, 1)
			w.Kill()
			w.leased(2, c)
			equal(w.t, "exit", w.event(pool.EventClosed).Exit.Err, pooltest.ErrKilled)
		})
	})
	t.Run("during a drain", func(t *testing.T) {
		play(t, stubborn, func(w *world) {
			w.one()
			done := w.shutdown(context.Background())
			w.Kill()
			w.returned(done, false)
			now := w.shutdown(ended())
			w.returned(done, true)
			w.returned(now, true)
		})
	})
	t.Run("while what is left is stopped", func(t *testing.T) {
		play(t, stubborn, func(w *world) {
			w.one()
			w.exit(exit0L)
			w.pass(time.Hour)
			w.isGen(pool.Shutdown, 1)
			w.Kill()
			w.isGen(pool.Closed, 1)
			equal(w.t, "exit", w.event(pool.EventClosed).Exit, exit0L)
		})
	})
	t.Run("before anything", func(t *testing.T) {
		play(t, stubborn, func(w *world) {
			w.Kill()
			w.leased(1, w.one())
		})
	})
}
