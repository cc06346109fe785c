package pool_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// Everybody who waits when a start begins waits for that start, also those who
// came while the life before was being stopped and have not looked since.
func TestFailedStartIsToldToAllWhoWaitedForClosed(t *testing.T) {
	play(t, pooltest.Script{Stop: stopTime}, func(w *world) {
		w.one().Put()
		w.pass(idleTime)
		w.is(pool.Shutdown)
		crowd := w.arrive(2000)
		w.res.SetScript(pooltest.Script{SpawnError: errors.New("no such program")})
		w.pass(stopTime)
		w.toldFailed(2, time.Now(), crowd...)
		w.starts(2)
		equal(w.t, "clients told", w.event(pool.EventStartFailed).Waiting, len(crowd))
	})
}

// The same for those who wait while starts are held back.
func TestFailedStartIsToldToAllWhoWereHeldBack(t *testing.T) {
	play(t, pooltest.Script{SpawnError: errors.New("no such program")}, func(w *world) {
		w.one()
		w.one()
		crowd := w.arrive(2000)
		w.waits(crowd...)
		w.starts(2)
		w.pass(time.Second)
		w.toldFailed(3, time.Now(), crowd...)
		w.starts(3)
	})
}

// A start that waits for the last life's end to be told is not made any more
// once the pool stops.
func TestShutdownBeforeSpawnPreventsIt(t *testing.T) {
	var held chan struct{} // made in the bubble, where it is used
	cfg := pool.Config{Idle: idleTime, Notify: func(ev pool.Event) {
		if ev.Kind == pool.EventClosed && ev.Gen == 1 {
			<-held
		}
	}}
	playWith(t, cfg, pooltest.Script{}, func(w *world) {
		held = make(chan struct{})
		w.one()
		w.exit(exit0)
		c := w.one()
		w.is(pool.Starting)
		w.starts(1)
		done := w.shutdown(context.Background())
		w.toldErr(pool.ErrShutdown, c)
		close(held)
		w.returned(done, true)
		w.starts(1)
	})
}

// When a spawn has failed there is nothing to stop: the pool is closed when
// that is told, not only afterwards.
func TestFailedSpawnIsClosedAtOnce(t *testing.T) {
	var hold chan struct{} // made in the bubble, where it is used
	cfg := pool.Config{Notify: func(ev pool.Event) {
		if ev.Kind == pool.EventStartFailed {
			<-hold
		}
	}}
	playWith(t, cfg, doomed, func(w *world) {
		hold = make(chan struct{})
		w.one()
		w.pass(failTime)
		w.isGen(pool.Closed, 1)
		close(hold)
	})
}

// exitsNow is a life whose process ends just when the pool looks for the exit
// the second time, which is after the answer that it is ready.
type exitsNow struct {
	*pooltest.Life
	exit  pool.Exit
	looks atomic.Int32
}

func (l *exitsNow) Exited() <-chan pool.Exit {
	if l.looks.Add(1) == 2 {
		l.End(l.exit)
	}
	return l.Life.Exited()
}

type exitsNowResource struct {
	*pooltest.Resource
	exit pool.Exit
}

func (r exitsNowResource) Start(ctx context.Context, gen uint64) (pool.Life, error) {
	l, err := r.Resource.Start(ctx, gen)
	return &exitsNow{Life: l.(*pooltest.Life), exit: r.exit}, err
}

// Readiness and the end of the child at the same moment are its end: a program
// that takes connections and goes into the background has failed to start.
func TestExitAtTheInstantOfReady(t *testing.T) {
	for _, e := range []pool.Exit{exit0, exit0L, exit3, exit3L} {
		play(t, pooltest.Script{Ready: bootTime}, func(w *world) {
			w.use(exitsNowResource{w.res, e}, pool.Config{})
			c := w.one()
			w.pass(bootTime)
			w.toldFailed(1, time.Now(), c)
			w.is(pool.Closed)
			equal(w.t, "failures", w.Snapshot().Failures, 1)
		})
	}
}

// The end of a life that is told late does not reach for the next one.
func TestLateMonitorLeavesTheNextLifeAlone(t *testing.T) {
	var hold chan struct{} // made in the bubble, where it is used
	cfg := pool.Config{Notify: func(ev pool.Event) {
		if ev.Kind == pool.EventStartFailed {
			<-hold
		}
	}}
	playWith(t, cfg, slowly, func(w *world) {
		hold = make(chan struct{})
		w.one()
		w.exit(exit3)
		w.one()
		w.isGen(pool.Starting, 2)
		done := w.shutdown(context.Background())
		w.isGen(pool.Shutdown, 2)
		close(hold)
		w.returned(done, true)
		for _, ev := range w.told() {
			equal(w.t, "shutdown of a life that had ended", ev.Kind == pool.EventShutdown, false)
		}
	})
}

// Two events at the same moment, of which either may come first: whichever it
// is, the client is answered in one of two ways, and the pool fits the answer.
func TestEventsAtTheInstantOfReady(t *testing.T) {
	tests := []struct {
		event string
		ready time.Duration
		at    func(w *world, c *client)
		check func(w *world, c *client)
	}{
		{"client leaves", bootTime, func(_ *world, c *client) { c.leave(context.DeadlineExceeded) }, func(w *world, c *client) {
			w.isGen(pool.Opened, 1)
			if c.err == nil {
				w.leased(1, c)
			} else {
				w.toldErr(context.DeadlineExceeded, c)
			}
			idle, _ := w.Armed()
			equal(w.t, "idle timer armed", idle, c.err != nil)
		}},
		{"tiproxy stops", bootTime, func(w *world, _ *client) { go w.Shutdown(ended()) }, func(w *world, c *client) {
			if c.err != nil {
				w.toldErr(pool.ErrShutdown, c)
			}
			w.pass(stopTime)
			w.isGen(pool.Closed, 1)
		}},
		{"start timeout", startTimeout, func(w *world, _ *client) {}, func(w *world, c *client) {
			if c.err == nil {
				w.leased(1, c)
				w.isGen(pool.Opened, 1)
				return
			}
			w.toldErr(pool.ReasonTimeout, c)
			w.isGen(pool.Shutdown, 1)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.event, func(t *testing.T) {
			for range 20 {
				s := pooltest.Script{Ready: tt.ready, Stop: stopTime}
				play(t, s, func(w *world) {
					c := w.one()
					time.AfterFunc(tt.ready, func() { tt.at(w, c) })
					w.pass(tt.ready)
					equal(w.t, "answered", c.answered(), true)
					tt.check(w, c)
				})
			}
		})
	}
}

// The child's end and the decision to stop it at the same moment: one of them
// is the reason, and the pool is closed after either.
func TestExitAtTheIdleInstant(t *testing.T) {
	for _, e := range []pool.Exit{exit0, exit0L, exit3, exit3L} {
		for range 20 {
			s := pooltest.Script{Lives: idleTime, Exit: e, Stop: stopTime}
			play(t, s, func(w *world) {
				w.one().Put()
				w.pass(idleTime)
				stops := w.Snapshot().Stops
				equal(w.t, "lives ended", stops[pool.ReasonIdle]+stops[pool.ReasonExited]+stops[pool.ReasonCrashed], 1)
				equal(w.t, "last error", w.Snapshot().LastError != nil, stops[pool.ReasonCrashed] == 1)
				if e.Left {
					w.isGen(pool.Shutdown, 1)
					w.pass(stopTime)
				}
				w.isGen(pool.Closed, 1)
				equal(w.t, "exit", w.event(pool.EventClosed).Exit, e)
			})
		}
	}
}

// A life that goes on, but does not take connections for a while, is waited
// for by those who hold a lease.
func TestLeaseReady(t *testing.T) {
	play(t, pooltest.Script{}, func(w *world) {
		c := w.one()
		w.life().SetReady(false)
		time.AfterFunc(time.Second, func() { w.res.Last().SetReady(true) })
		addr, err := c.lease.Ready(context.Background())
		equal(w.t, "address", addr, c.lease.Addr())
		equal(w.t, "error", err, nil)
		w.life().SetReady(false)
		_, err = c.lease.Ready(ended())
		equal(w.t, "error", err, context.Canceled)
		time.AfterFunc(time.Second, func() { w.res.Last().End(exit0) })
		_, err = c.lease.Ready(context.Background())
		equal(w.t, "error", err, pooltest.ErrEnded)
		w.settle()
		w.one()
		w.isGen(pool.Opened, 2)
		_, err = c.lease.Ready(context.Background())
		equal(w.t, "error", err, pooltest.ErrEnded) // not the next life's word
	})
}
