package pool_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// cell is one cell of the contract's table of states and events.
type cell struct {
	event string
	test  func(w *world)
}

func runCells(t *testing.T, cells []cell) {
	for _, c := range cells {
		t.Run(c.event, func(t *testing.T) { play(t, slowly, c.test) })
	}
}

// The ways into each state, with the clients that are there then.

func (w *world) toStarting(n int) []*client {
	c := w.arrive(n)
	w.isGen(pool.Starting, 1)
	w.waits(c...)
	return c
}

func (w *world) toOpened(n int) []*client {
	c := w.toStarting(n)
	w.ready()
	w.isGen(pool.Opened, 1)
	w.leased(1, c...)
	return c
}

func (w *world) toShutdown() {
	w.toOpened(1)[0].Put()
	w.pass(idleTime)
	w.isGen(pool.Shutdown, 1)
}

// serves checks that the pool has come to life again.
func (w *world) serves(gen uint64, c ...*client) {
	w.t.Helper()
	w.isGen(pool.Starting, gen)
	w.waits(c...)
	w.ready()
	w.isGen(pool.Opened, gen)
	w.leased(gen, c...)
}

func TestClosed(t *testing.T) { runCells(t, closedCells) }

var closedCells = []cell{
	{"new client", func(w *world) {
		c := w.arrive(1)
		w.isGen(pool.Starting, 1)
		c = append(c, w.arrive(4)...)
		w.starts(1)
		w.serves(1, c...)
		w.starts(1)
	}},
	{"new client that only tries", func(w *world) {
		_, ok := w.TryGet()
		equal(w.t, "got a lease", ok, false)
		w.pass(time.Hour)
		w.isGen(pool.Closed, 0)
		w.starts(0)
	}},
	{"new client that has left", func(w *world) {
		c := w.comeWith(ended())
		w.toldErr(context.Canceled, c)
		w.starts(0)
	}},
	{"tiproxy stops", func(w *world) {
		w.returned(w.shutdown(context.Background()), true)
		w.toldErr(pool.ErrShutdown, w.one())
		w.starts(0)
	}},
}

func TestStarting(t *testing.T) { runCells(t, startingCells) }

var startingCells = []cell{
	{"new client", func(w *world) {
		w.toStarting(1)
		_, ok := w.TryGet()
		equal(w.t, "got a lease", ok, false)
		w.waits(w.arrive(3)...)
		w.isGen(pool.Starting, 1)
		w.starts(1)
	}},
	{"the child is ready", func(w *world) {
		w.toOpened(3)
		equal(w.t, "waiting at opened", w.event(pool.EventOpened).Waiting, 3)
	}},
	{"the child ends", func(w *world) {
		c := w.toStarting(3)
		w.exit(exit3)
		w.toldFailed(1, time.Now(), c...)
		w.isGen(pool.Closed, 1)
		polite, forced := w.life().Stops()
		equal(w.t, "stops", polite+forced, 0)
		ev := w.event(pool.EventStartFailed)
		equal(w.t, "clients told", ev.Waiting, 3)
		equal(w.t, "why", errors.Is(ev.Err, exit3.Err), true)
		w.serves(2, w.one())
	}},
	{"the child ends and its readiness probe does not see it", func(w *world) {
		w.res.SetScript(pooltest.Script{Ready: pooltest.Manual, Blind: true})
		c := w.toStarting(2)
		w.exit(exit3)
		w.toldFailed(1, time.Now(), c...)
		w.isGen(pool.Closed, 1)
	}},
	{"the child ends with status 0", func(w *world) {
		c := w.toStarting(1)
		w.exit(exit0)
		w.toldFailed(1, time.Now(), c...)
		equal(w.t, "failures", w.Snapshot().Failures, 1)
	}},
	{"the child ends and leaves something", func(w *world) {
		c := w.toStarting(3)
		w.exit(exit0L)
		w.toldFailed(1, time.Now(), c...)
		w.isGen(pool.Shutdown, 1)
		next := w.one()
		w.pass(stopTime - 1)
		w.isGen(pool.Shutdown, 1)
		w.waits(next)
		w.pass(1)
		w.serves(2, next)
		equal(w.t, "exit", w.event(pool.EventClosed).Exit, exit0L)
	}},
	{"the child cannot be spawned", func(w *world) {
		broken := errors.New("no such program")
		w.res.SetScript(pooltest.Script{SpawnError: broken})
		c := w.arrive(1)
		w.toldFailed(1, time.Now(), c...)
		w.toldErr(broken, c...)
		w.isGen(pool.Closed, 1)
		equal(w.t, "exit", w.event(pool.EventClosed).Exit, pool.Exit{})
	}},
	{"the child can never be ready", func(w *world) {
		c := w.toStarting(2)
		stranger := errors.New("somebody else listens")
		w.life().FailReady(stranger)
		w.pass(pool.ExitGrace - 1)
		w.waits(c...)
		w.pass(1)
		w.toldFailed(1, time.Now(), c...)
		w.toldErr(stranger, c...)
		w.isGen(pool.Shutdown, 1)
		w.pass(stopTime)
		w.isGen(pool.Closed, 1)
	}},
	{"the child's exit explains why it can never be ready", func(w *world) {
		c := w.toStarting(1)
		w.life().FailReady(pooltest.ErrEnded)
		w.pass(pool.ExitGrace / 2)
		w.waits(c...)
		w.exit(exit3)
		w.toldFailed(1, time.Now(), c...)
		w.toldErr(exit3.Err, c...)
		w.isGen(pool.Closed, 1)
	}},
	{"start timeout while a bad answer waits for the exit", func(w *world) {
		c := w.toStarting(1)
		w.pass(startTimeout - pool.ExitGrace/2)
		w.life().FailReady(pooltest.ErrEnded)
		w.pass(pool.ExitGrace / 2)
		w.toldFailed(1, time.Now(), c...)
		w.toldErr(pool.ReasonTimeout, c...)
	}},
	{"start timeout", func(w *world) {
		c := w.toStarting(3)
		w.pass(startTimeout - 1)
		w.waits(c...)
		w.pass(1)
		w.toldFailed(1, time.Now(), c...)
		w.toldErr(pool.ReasonTimeout, c...)
		w.isGen(pool.Shutdown, 1)
		equal(w.t, "reason", w.event(pool.EventShutdown).Reason, pool.ReasonTimeout)
		w.pass(stopTime)
		w.isGen(pool.Closed, 1)
		w.serves(2, w.one())
	}},
	{"start timeout while it is being spawned", func(w *world) {
		w.res.SetScript(pooltest.Script{Spawn: 2 * startTimeout, Ready: pooltest.Manual})
		c := w.arrive(1)
		w.pass(2 * startTimeout)
		w.toldErr(pool.ReasonTimeout, c...)
	}},
	{"idle time over", func(w *world) {
		c := w.toStarting(1)[0]
		c.leave(nil)
		w.pass(startTimeout - 1)
		w.isGen(pool.Starting, 1)
		idle, _ := w.Armed()
		equal(w.t, "idle timer armed", idle, false)
	}},
	{"tiproxy stops", func(w *world) {
		c := w.toStarting(3)
		done := w.shutdown(context.Background())
		w.toldErr(pool.ErrShutdown, c...)
		w.isGen(pool.Shutdown, 1)
		w.pass(stopTime - 1)
		w.returned(done, false)
		w.pass(1)
		w.returned(done, true)
		equal(w.t, "failures", w.Snapshot().Failures, 0)
		equal(w.t, "reason", w.event(pool.EventClosed).Reason, pool.ReasonQuit)
	}},
	{"tiproxy stops while it is being spawned", func(w *world) {
		w.res.SetScript(pooltest.Script{Spawn: bootTime, Stop: stopTime})
		c := w.arrive(1)
		done := w.shutdown(context.Background())
		w.toldErr(pool.ErrShutdown, c...)
		w.isGen(pool.Shutdown, 1)
		w.pass(bootTime + stopTime - 1)
		w.returned(done, false)
		w.pass(1)
		w.returned(done, true)
	}},
	{"tiproxy stops while it cannot be spawned", func(w *world) {
		w.res.SetScript(pooltest.Script{Spawn: bootTime, SpawnError: errors.New("no such program")})
		w.arrive(1)
		done := w.shutdown(context.Background())
		w.pass(bootTime)
		w.returned(done, true)
		equal(w.t, "failures", w.Snapshot().Failures, 0)
	}},
}

func TestOpened(t *testing.T) { runCells(t, openedCells) }

var openedCells = []cell{
	{"new client", func(w *world) {
		w.toOpened(1)
		w.leased(1, w.arrive(3)...)
		l, ok := w.TryGet()
		equal(w.t, "got a lease", ok, true)
		equal(w.t, "connections", w.Snapshot().Connections, 5)
		w.Put(l)
	}},
	{"the child ends", func(w *world) {
		c := w.toOpened(2)
		w.exit(exit0)
		w.isGen(pool.Closed, 1)
		equal(w.t, "leases done", isDone(c[0]) && isDone(c[1]), true)
		equal(w.t, "reason", w.event(pool.EventClosed).Reason, pool.ReasonExited)
		equal(w.t, "failures", w.Snapshot().Failures, 0)
		w.serves(2, w.one())
		equal(w.t, "connections", w.Snapshot().Connections, 1)
		c[0].Put() // that of the old life: the new one is not idle
		idle, _ := w.Armed()
		equal(w.t, "idle timer armed", idle, false)
	}},
	{"the child crashes", func(w *world) {
		c := w.toOpened(1)
		w.exit(exit3)
		w.isGen(pool.Closed, 1)
		equal(w.t, "lease done", isDone(c[0]), true)
		equal(w.t, "reason", w.event(pool.EventClosed).Reason, pool.ReasonCrashed)
		equal(w.t, "last error", w.Snapshot().LastError, exit3.Err)
		w.serves(2, w.one())
	}},
	{"the child ends and leaves something", func(w *world) {
		c := w.toOpened(1)
		w.exit(exit3L)
		equal(w.t, "lease done", isDone(c[0]), true)
		w.isGen(pool.Shutdown, 1)
		equal(w.t, "connections", w.Snapshot().Connections, 0)
		next := w.one()
		w.pass(stopTime - 1)
		w.waits(next)
		w.pass(1)
		w.serves(2, next)
	}},
	{"the child ends while leases of it are out", func(w *world) {
		c := w.toOpened(1)
		w.exit(exit0)
		w.serves(2, w.one())
		c[0].Put()
		w.clients[1].Put()
		w.pass(idleTime)
		w.isGen(pool.Shutdown, 2) // an old lease holds nothing up
	}},
	{"start timeout", func(w *world) {
		w.toOpened(1)
		w.pass(2 * startTimeout)
		w.isGen(pool.Opened, 1)
	}},
	{"idle time over", func(w *world) {
		w.toOpened(1)[0].Put()
		w.pass(idleTime - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
		equal(w.t, "reason", w.event(pool.EventShutdown).Reason, pool.ReasonIdle)
		w.pass(stopTime)
		w.isGen(pool.Closed, 1)
		equal(w.t, "exit", w.event(pool.EventClosed).Exit.Err, pooltest.ErrStopped)
	}},
	{"idle time over with a connection", func(w *world) {
		c := w.toOpened(2)
		c[0].Put()
		w.pass(100 * idleTime)
		w.isGen(pool.Opened, 1)
	}},
	{"tiproxy stops", func(w *world) {
		w.toOpened(1)[0].Put()
		done := w.shutdown(context.Background())
		w.isGen(pool.Shutdown, 1)
		w.pass(stopTime)
		w.returned(done, true)
	}},
	{"tiproxy stops with connections", func(w *world) {
		c := w.toOpened(2)
		done := w.shutdown(context.Background())
		w.toldErr(pool.ErrShutdown, w.one())
		_, ok := w.TryGet()
		equal(w.t, "got a lease", ok, false)
		c[0].Put()
		w.pass(time.Hour)
		w.isGen(pool.Opened, 1)
		w.returned(done, false)
		c[1].Put()
		w.isGen(pool.Shutdown, 1)
	}},
}

func TestShutdownState(t *testing.T) { runCells(t, shutdownCells) }

var shutdownCells = []cell{
	{"new client", func(w *world) {
		w.toShutdown()
		w.pass(stopTime / 2)
		c := w.arrive(3)
		_, ok := w.TryGet()
		equal(w.t, "got a lease", ok, false)
		w.pass(stopTime/2 - 1)
		w.isGen(pool.Shutdown, 1)
		w.waits(c...)
		w.pass(1)
		w.serves(2, c...)
	}},
	{"the child is ready", func(w *world) {
		w.toStarting(1)
		w.pass(startTimeout)
		w.isGen(pool.Shutdown, 1)
		w.ready()
		w.isGen(pool.Shutdown, 1)
		c := w.one()
		w.waits(c)
		w.pass(stopTime)
		w.serves(2, c)
	}},
	{"the child ends", func(w *world) {
		w.toShutdown()
		w.exit(exit3)
		w.isGen(pool.Closed, 1)
		s := w.Snapshot()
		equal(w.t, "failures", s.Failures, 0)
		equal(w.t, "last error", s.LastError, nil)
		equal(w.t, "exit", w.event(pool.EventClosed).Exit, exit3)
	}},
	{"the child ends and leaves something", func(w *world) {
		w.toShutdown()
		w.exit(exit0L)
		w.isGen(pool.Shutdown, 1)
		c := w.one()
		w.waits(c)
		w.pass(stopTime)
		w.serves(2, c)
	}},
	{"start timeout and idle time over", func(w *world) {
		w.res.SetScript(pooltest.Script{Stop: pooltest.Manual})
		w.one().Put()
		w.pass(100 * idleTime)
		w.isGen(pool.Shutdown, 1)
		c := w.one()
		w.pass(100 * idleTime)
		w.isGen(pool.Shutdown, 1)
		w.waits(c)
	}},
	{"tiproxy stops", func(w *world) {
		w.toShutdown()
		c := w.arrive(2)
		w.waits(c...)
		done := w.shutdown(context.Background())
		w.toldErr(pool.ErrShutdown, c...)
		w.returned(done, false)
		w.pass(stopTime)
		w.returned(done, true)
		w.isGen(pool.Closed, 1)
		w.starts(1)
	}},
}
