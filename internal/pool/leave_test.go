package pool_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

var errGone = errors.New("the client is gone")

// Whoever leaves is told at once why, and is not counted any more.
func TestWaitingClientLeaves(t *testing.T) {
	states := map[string]func(w *world){
		"closed, held back": func(w *world) {
			w.res.SetScript(doomed)
			for range 2 {
				w.one()
				w.pass(failTime)
			}
		},
		"starting": func(w *world) { w.toStarting(1) },
		"shutdown": func(w *world) { w.toShutdown() },
	}
	for name, to := range states {
		t.Run(name, func(t *testing.T) {
			play(t, slowly, func(w *world) {
				to(w)
				before := w.Snapshot()
				c := w.arrive(3)
				equal(w.t, "waiting", w.Snapshot().Waiting, before.Waiting+3)
				at := time.Now()
				c[1].leave(errGone)
				w.toldErr(errGone, c[1])
				equal(w.t, "told at", c[1].at, at)
				w.waits(c[0], c[2])
				after := w.Snapshot()
				equal(w.t, "waiting", after.Waiting, before.Waiting+2)
				equal(w.t, "state", after.State, before.State)
			})
		})
	}
}

// Those who have left do not bring a life into being.
func TestDepartedClientsStartNothing(t *testing.T) {
	play(t, slowly, func(w *world) {
		w.toShutdown()
		for _, c := range w.arrive(3) {
			c.leave(nil)
		}
		w.pass(stopTime)
		w.isGen(pool.Closed, 1)
		w.pass(time.Hour)
		w.starts(1)
	})
}

// The one who caused a start may leave: it goes on for the others.
func TestStarterLeaves(t *testing.T) {
	play(t, slowly, func(w *world) {
		first, second := w.one(), w.one()
		first.leave(nil)
		w.toldErr(context.Canceled, first)
		w.ready()
		w.leased(1, second)
		w.starts(1)
		equal(w.t, "who", w.event(pool.EventOpened).Who, first.who)
	})
}

// crowd is as many clients as come in the tests of crowds.
const crowd = 10_000

// Whoever leaves wakes nobody else, so that this takes no time to speak of.
func TestCrowdLeavesAtOnce(t *testing.T) {
	play(t, slowly, func(w *world) {
		ctx, leave := context.WithCancelCause(context.Background())
		for range crowd {
			w.comeWith(ctx)
		}
		stays := w.one()
		equal(w.t, "waiting", w.Snapshot().Waiting, crowd+1)
		at := time.Now()
		leave(errGone)
		w.toldErr(errGone, w.clients[:crowd]...)
		equal(w.t, "all told at", w.clients[crowd/2].at, at)
		equal(w.t, "waiting", w.Snapshot().Waiting, 1)
		w.ready()
		w.leased(1, stays)
	})
}

func TestCrowdIsServedByOneLife(t *testing.T) {
	play(t, slowly, func(w *world) {
		w.toShutdown()
		c := w.arrive(crowd / 10)
		w.pass(stopTime)
		w.serves(2, c...)
		equal(w.t, "connections", w.Snapshot().Connections, crowd/10)
		equal(w.t, "waiting at opened", w.event(pool.EventOpened).Waiting, crowd/10)
		w.starts(2)
		for _, c := range c {
			c.Put()
		}
		w.pass(idleTime)
		w.isGen(pool.Shutdown, 2)
	})
}

// A crash loop with many clients is not one start for each.
func TestCrashLoopIsPaced(t *testing.T) {
	s := pooltest.Script{Ready: pooltest.Manual, Lives: 100 * time.Millisecond, Exit: exit3}
	play(t, s, func(w *world) {
		end := time.Now().Add(10 * time.Second)
		for time.Now().Before(end) {
			w.arrive(10)
			w.pass(10 * time.Millisecond)
		}
		// At 0, 0.1, 1.2, 3.3 and 7.4 s.
		w.starts(5)
		w.res.SetScript(pooltest.Script{})
		c := w.one()
		w.pass(10 * time.Second)
		w.leased(6, c)
	})
}
