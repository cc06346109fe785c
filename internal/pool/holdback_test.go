package pool_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// doomed is a start that fails, though not before everybody has come who comes
// at the same moment.
var doomed = pooltest.Script{Spawn: failTime, SpawnError: errors.New("no such program")}

const failTime = time.Millisecond

// pauses are the hold-backs after the first, second … failure in a row.
var pauses = []time.Duration{
	0, 1 * time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second,
	16 * time.Second, 32 * time.Second, time.Minute, time.Minute, time.Minute,
}

// fail makes the next start fail, and checks that it is made exactly after a
// pause, for all who wait.
func (w *world) fail(pause time.Duration) {
	w.t.Helper()
	gen := w.Snapshot().Gen + 1
	c := w.arrive(3)
	if pause > 0 {
		w.isGen(pool.Closed, gen-1)
		w.pass(pause - 1)
		w.isGen(pool.Closed, gen-1)
		w.starts(int(gen - 1))
		w.pass(1)
	}
	w.isGen(pool.Starting, gen)
	w.starts(int(gen))
	w.waits(c...)
	w.pass(failTime)
	w.toldFailed(gen, time.Now(), c...)
	w.starts(int(gen))
}

func TestHoldBack(t *testing.T) {
	play(t, doomed, func(w *world) {
		w.fail(0)
		for _, pause := range pauses {
			w.fail(pause)
		}
		w.failures(uint64(len(pauses) + 1))
		w.res.SetScript(pooltest.Script{}) // it heals by itself
		c := w.one()
		w.pass(time.Minute)
		w.leased(uint64(len(pauses)+2), c)
	})
}

// The pause runs from the failure, not from the client who comes next.
func TestHoldBackIsOverWhenNobodyCame(t *testing.T) {
	play(t, doomed, func(w *world) {
		w.fail(0)
		w.fail(0)
		w.fail(time.Second)
		_, armed := w.Armed()
		equal(w.t, "hold-back timer armed without a client", armed, false)
		w.pass(1500 * time.Millisecond)
		w.starts(3)
		c := w.one()
		_, armed = w.Armed()
		equal(w.t, "hold-back timer armed for a client", armed, true)
		equal(w.t, "held until", w.Snapshot().HeldUntil, time.Now().Add(500*time.Millisecond))
		w.pass(500*time.Millisecond - 1)
		w.isGen(pool.Closed, 3)
		w.pass(1 + failTime)
		w.toldFailed(4, time.Now(), c)
		w.pass(time.Hour)
		w.fail(0)
	})
}

// Nobody waits, nothing is armed, nothing is started.
func TestHoldBackWithoutClients(t *testing.T) {
	play(t, doomed, func(w *world) {
		w.fail(0)
		w.fail(0)
		c := w.arrive(2)
		for _, c := range c {
			_, armed := w.Armed()
			equal(w.t, "hold-back timer armed", armed, true)
			c.leave(nil)
			w.toldErr(context.Canceled, c)
		}
		_, armed := w.Armed()
		equal(w.t, "hold-back timer armed", armed, false)
		w.pass(time.Hour)
		w.starts(2)
		w.isGen(pool.Closed, 2)
	})
}

// What counts as a failure in a row, and what ends the row.
func TestHoldBackCounts(t *testing.T) {
	live := func(opened time.Duration, e pool.Exit) func(w *world) {
		return func(w *world) {
			w.res.SetScript(pooltest.Script{})
			c := w.one()
			w.isGen(pool.Opened, c.lease.Gen())
			c.Put()
			if opened > 0 {
				w.pass(opened)
			}
			w.exit(e)
		}
	}
	tests := []struct {
		what  string
		last  func(w *world) // after one failed start
		pause time.Duration
	}{
		{"crash soon after opened", live(pool.StableAfter-1, exit3), time.Second},
		{"crash soon after opened, something left", live(1, exit3L), time.Second},
		{"crash of a stable life", live(pool.StableAfter, exit3), 0},
		{"exit 0 soon after opened", live(0, exit0), 0},
		{"second failed start", func(w *world) { w.fail(0) }, time.Second},
		{"start timeout", func(w *world) {
			w.res.SetScript(pooltest.Script{Ready: pooltest.Manual})
			w.one()
			w.pass(startTimeout)
		}, time.Second},
		{"exit 0 before ready", func(w *world) {
			w.res.SetScript(pooltest.Script{Ready: pooltest.Manual})
			w.one()
			w.exit(exit0)
		}, time.Second},
		{"stopped when idle", func(w *world) {
			w.res.SetScript(pooltest.Script{})
			w.one().Put()
			w.pass(idleTime)
		}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.what, func(t *testing.T) {
			play(t, doomed, func(w *world) {
				w.fail(0)
				tt.last(w)
				w.is(pool.Closed)
				w.res.SetScript(doomed)
				w.fail(tt.pause)
			})
		})
	}
}

// Exit 0 and short lives neither lengthen nor forget the row of failures.
func TestHoldBackIsForgottenOnlyAfterAStableLife(t *testing.T) {
	for _, opened := range []time.Duration{time.Second, pool.StableAfter - 1, pool.StableAfter} {
		play(t, doomed, func(w *world) {
			w.fail(0)
			w.fail(0)
			w.fail(time.Second) // the third: the next pause is 2 s
			w.res.SetScript(pooltest.Script{})
			c := w.one()
			w.pass(2 * time.Second)
			w.leased(4, c)
			w.pass(opened)
			w.exit(exit0)
			w.res.SetScript(doomed)
			w.fail(0)
			if opened >= pool.StableAfter {
				w.fail(0) // that was the first failure of a new row
				return
			}
			w.fail(4 * time.Second) // that was the fourth
		})
	}
}

// A failure is counted when it happens: a long stop after it takes its time off
// the pause, and the pause what is left of its time off the stop.
func TestHoldBackRunsDuringTheStop(t *testing.T) {
	play(t, doomed, func(w *world) {
		w.fail(0)
		w.fail(0)
		w.fail(time.Second)
		w.res.SetScript(pooltest.Script{Stop: 3 * time.Second, Ready: pooltest.Manual})
		first := w.one()
		w.pass(2 * time.Second)
		w.exit(exit3L) // the fourth failure: a pause of 4 s, a stop of 3 s
		w.toldFailed(4, time.Now(), first)
		c := w.one()
		w.pass(3 * time.Second)
		w.isGen(pool.Closed, 4)
		w.pass(time.Second - 1)
		w.isGen(pool.Closed, 4)
		w.pass(1)
		w.serves(5, c)
	})
}

func TestShutdownDuringHoldBack(t *testing.T) {
	play(t, doomed, func(w *world) {
		w.fail(0)
		w.fail(0)
		c := w.arrive(2)
		w.waits(c...)
		w.returned(w.shutdown(context.Background()), true)
		w.toldErr(pool.ErrShutdown, c...)
		_, armed := w.Armed()
		equal(w.t, "hold-back timer armed", armed, false)
		w.pass(time.Hour)
		w.starts(2)
	})
}

// One timer is enough for all who wait, and the timer of an earlier hold-back
// that is called late does not touch it.
func TestOneHoldBackTimer(t *testing.T) {
	play(t, doomed, func(w *world) {
		w.fail(0)
		w.fail(0)
		first := w.one()
		timer := w.HoldBackTimer()
		second := w.one()
		equal(w.t, "another timer", w.HoldBackTimer() != timer, false)
		w.EndHoldBack()
		w.waits(first, second)
		equal(w.t, "another timer", w.HoldBackTimer() != timer, false)
		first.leave(nil)
		w.toldErr(context.Canceled, first)
		equal(w.t, "another timer", w.HoldBackTimer() != timer, false)
	})
}
