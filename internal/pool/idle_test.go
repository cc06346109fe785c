package pool_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// A client who comes around the moment the idle time is over is served by this
// life or by the next one, and never refused.
func TestClientAtTheIdleInstant(t *testing.T) {
	for _, offset := range []time.Duration{-1, 0, 1} {
		t.Run(fmt.Sprintf("idle%+dns", offset), func(t *testing.T) {
			for range 20 { // at offset 0 either may be first
				play(t, pooltest.Script{Stop: stopTime}, func(w *world) { clientAtIdle(w, offset) })
			}
		})
	}
}

func clientAtIdle(w *world, offset time.Duration) {
	first := w.one()
	first.Put()
	var c *client
	time.AfterFunc(idleTime+offset, func() { c = w.come() })
	w.pass(idleTime + offset)
	kept := w.Snapshot().State == pool.Opened
	if offset != 0 {
		equal(w.t, "life kept", kept, offset < 0)
	}
	if kept {
		w.leased(1, c)
		w.pass(10 * idleTime)
		w.isGen(pool.Opened, 1)
		return
	}
	w.waits(c)
	w.pass(stopTime)
	w.leased(2, c)
}

// Idle time runs anew from the end of the last connection.
func TestIdleTimeCountsFromTheLastLease(t *testing.T) {
	play(t, pooltest.Script{Stop: stopTime}, func(w *world) {
		c := w.arrive(3)
		for _, c := range c {
			w.pass(idleTime / 2)
			w.isGen(pool.Opened, 1)
			c.Put()
		}
		w.pass(idleTime - 1)
		c = w.arrive(1)
		w.pass(5 * time.Second)
		c[0].Put()
		w.pass(idleTime - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
		w.starts(1)
	})
}

// Giving a lease back twice is giving it back once: the other connection keeps
// the life.
func TestPutIsIdempotent(t *testing.T) {
	play(t, pooltest.Script{}, func(w *world) {
		c := w.arrive(2)
		c[0].Put()
		c[0].Put()
		equal(w.t, "connections", w.Snapshot().Connections, 1)
		w.pass(2 * idleTime)
		w.isGen(pool.Opened, 1)
		c[1].Put()
		c[0].Put()
		w.pass(idleTime)
		w.isGen(pool.Closed, 1)
	})
}

// A start is finished though everybody left, and the idle time runs from opened.
func TestIdleTimeOfAStartNobodyWaitedFor(t *testing.T) {
	play(t, pooltest.Script{Ready: bootTime}, func(w *world) {
		c := w.one()
		w.pass(bootTime / 2)
		c.leave(context.DeadlineExceeded)
		w.toldErr(context.DeadlineExceeded, c)
		equal(w.t, "waiting", w.Snapshot().Waiting, 0)
		w.pass(bootTime / 2)
		w.isGen(pool.Opened, 1)
		w.pass(idleTime - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Closed, 1)
	})
}

// An idle time shorter than the start cannot end it.
func TestIdleTimeShorterThanTheStart(t *testing.T) {
	cfg := pool.Config{Idle: time.Nanosecond}
	playWith(t, cfg, pooltest.Script{Ready: bootTime}, func(w *world) {
		c := w.one()
		w.pass(bootTime)
		w.leased(1, c)
		w.pass(time.Hour)
		w.isGen(pool.Opened, 1)
		c.Put()
		w.pass(time.Nanosecond)
		w.isGen(pool.Closed, 1)
	})
}

// Zero means never, for both times.
func TestZeroTimesMeanNever(t *testing.T) {
	playWith(t, pool.Config{}, slowly, func(w *world) {
		c := w.one()
		w.pass(1000 * time.Hour)
		w.waits(c)
		w.ready()
		w.leased(1, c)
		c.Put()
		w.pass(1000 * time.Hour)
		w.isGen(pool.Opened, 1)
		idle, _ := w.Armed()
		equal(w.t, "idle timer armed", idle, false)
	})
}

// An idle timer that has fired, but whose call got the lock late, changes
// nothing, whatever has happened meanwhile.
func TestLateIdleTimer(t *testing.T) {
	tests := []struct {
		meanwhile string
		happens   func(w *world)
		state     pool.State
		gen       uint64
	}{
		{"a client came", func(w *world) { w.one() }, pool.Opened, 1},
		{"a client came and left", func(w *world) { w.one().Put() }, pool.Opened, 1},
		{"the child ended", func(w *world) { w.exit(exit0) }, pool.Closed, 1},
		{"the next life is opened and idle", func(w *world) { w.exit(exit0); w.one().Put() }, pool.Opened, 2},
		{"the next life is starting", func(w *world) {
			w.exit(exit0)
			w.res.SetScript(slowly)
			w.one()
		}, pool.Starting, 2},
		{"the life is being stopped", func(w *world) { w.pass(idleTime) }, pool.Shutdown, 1},
		{"tiproxy stops", func(w *world) { w.one(); w.shutdown(context.Background()) }, pool.Opened, 1},
	}
	for _, tt := range tests {
		t.Run(tt.meanwhile, func(t *testing.T) {
			play(t, pooltest.Script{Stop: stopTime}, func(w *world) {
				w.one().Put()
				late := w.LateIdle()
				tt.happens(w)
				before := w.Snapshot()
				late()
				w.isGen(tt.state, tt.gen)
				equal(w.t, "idle stops", w.Snapshot().Stops[pool.ReasonIdle], before.Stops[pool.ReasonIdle])
			})
		})
	}
}

// The idle decision is made again under the lock: a waiting client, or a lease,
// keeps the life also if the timer is still the armed one.
func TestIdleTimerIsNotArmedInUse(t *testing.T) {
	play(t, slowly, func(w *world) {
		idle := func(want bool) {
			w.t.Helper()
			armed, _ := w.Armed()
			equal(w.t, "idle timer armed", armed, want)
		}
		idle(false)
		c := w.toStarting(2)
		idle(false)
		w.ready()
		idle(false)
		c[0].Put()
		idle(false)
		c[1].Put()
		idle(true)
		l, _ := w.TryGet()
		idle(false)
		w.Put(l)
		idle(true)
		equal(w.t, "armed while somebody waits", w.ArmsForWaiting(), false)
		idle(true)
		w.pass(idleTime)
		w.isGen(pool.Shutdown, 1)
		idle(false)
	})
}

// A lease of an earlier life, given back late, does not prolong this one.
func TestOldLeaseDoesNotProlongTheIdleTime(t *testing.T) {
	play(t, pooltest.Script{Stop: stopTime}, func(w *world) {
		old := w.one()
		w.exit(exit0)
		w.one().Put()
		w.pass(idleTime / 2)
		old.Put()
		w.pass(idleTime/2 - 1)
		w.isGen(pool.Opened, 2)
		w.pass(1)
		w.isGen(pool.Shutdown, 2)
	})
}
