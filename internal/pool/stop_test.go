package pool_test

import (
	"context"
	"testing"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// stopLife calls Stop and returns a channel that is closed when it returns.
func (w *world) stopLife(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Stop(ctx, pool.ReasonAsked)
	}()
	w.settle()
	return done
}

func TestStop(t *testing.T) { runCells(t, stopCells) }

var stopCells = []cell{
	{"closed", func(w *world) {
		w.returned(w.stopLife(context.Background()), true)
		w.starts(0)
		w.serves(1, w.one())
	}},
	{"closed, held back", func(w *world) {
		w.res.SetScript(doomed)
		w.fail(0)
		w.fail(0)
		c := w.one()
		w.returned(w.stopLife(context.Background()), true)
		w.waits(c)
		w.res.SetScript(slowly)
		w.pass(time.Second)
		w.serves(3, c)
	}},
	{"starting: those who wait are served by the next life", func(w *world) {
		c := w.toStarting(3)
		done := w.stopLife(context.Background())
		w.isGen(pool.Shutdown, 1)
		late := w.one()
		w.pass(stopTime - 1)
		w.returned(done, false)
		w.waits(append(c, late)...)
		w.pass(1)
		w.returned(done, true)
		w.serves(2, append(c, late)...)
		equal(w.t, "reason", w.told()[1].Reason, pool.ReasonAsked)
		w.failures(0)
		equal(w.t, "outcome", w.History().Starts[0].Err, error(pool.ReasonAsked))
	}},
	{"starting, and nobody waits: asleep", func(w *world) {
		w.toStarting(1)[0].leave(nil)
		done := w.stopLife(context.Background())
		w.pass(stopTime)
		w.returned(done, true)
		w.isGen(pool.Closed, 1)
		w.pass(time.Hour)
		w.starts(1)
	}},
	{"starting, while it is being spawned", func(w *world) {
		w.res.SetScript(pooltest.Script{Spawn: bootTime, Ready: pooltest.Manual})
		c := w.one()
		done := w.stopLife(context.Background())
		w.pass(bootTime)
		w.returned(done, true)
		w.isGen(pool.Starting, 2)
		w.pass(bootTime)
		w.serves(2, c)
	}},
	{"opened and idle", func(w *world) {
		w.toOpened(1)[0].Put()
		done := w.stopLife(context.Background())
		w.isGen(pool.Shutdown, 1)
		equal(w.t, "reason", w.event(pool.EventShutdown).Reason, pool.ReasonAsked)
		c := w.one()
		w.pass(stopTime)
		w.returned(done, true)
		w.serves(2, c)
	}},
	{"opened with connections", func(w *world) {
		c := w.toOpened(2)
		done := w.stopLife(context.Background())
		w.isGen(pool.Opened, 1)
		equal(w.t, "parting", w.Snapshot().Parting, pool.ReasonAsked)
		_, ok := w.TryGet()
		equal(w.t, "got a lease", ok, false)
		late := w.one()
		w.waits(late)
		c[0].Put()
		w.pass(time.Hour)
		w.isGen(pool.Opened, 1)
		w.returned(done, false)
		c[1].Put()
		w.isGen(pool.Shutdown, 1)
		w.waits(late)
		w.pass(stopTime)
		w.returned(done, true)
		w.serves(2, late)
		equal(w.t, "parting", w.Snapshot().Parting, "")
	}},
	{"opened with connections that stay too long", func(w *world) {
		c := w.toOpened(1)
		done := w.stopLife(drain())
		w.pass(drainTime - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
		equal(w.t, "lease done", isDone(c[0]), false)
		w.pass(stopTime)
		w.returned(done, true)
		equal(w.t, "lease done", isDone(c[0]), true)
	}},
	{"opened with quiet connections only", func(w *world) {
		w.toOpened(1)[0].lease.Rest()
		w.stopLife(context.Background())
		w.isGen(pool.Shutdown, 1)
	}},
	{"opened with a quiet connection that is so no more", func(w *world) {
		c := w.toOpened(2)
		c[0].lease.Rest()
		w.stopLife(context.Background())
		c[0].lease.Rouse()
		c[1].Put()
		w.isGen(pool.Opened, 1)
		c[0].Put()
		w.isGen(pool.Shutdown, 1)
	}},
	{"opened, and the child ends meanwhile", func(w *world) {
		w.toOpened(1)
		done := w.stopLife(context.Background())
		late := w.one()
		w.exit(exit3)
		w.returned(done, true)
		w.serves(2, late)
		equal(w.t, "reason", w.Snapshot().Stops[pool.ReasonCrashed], 1)
		equal(w.t, "stops asked for", w.Snapshot().Stops[pool.ReasonAsked], 0)
	}},
	{"opened, and tiproxy stops meanwhile", func(w *world) {
		c := w.toOpened(1)
		stop := w.stopLife(context.Background())
		late := w.one()
		done := w.shutdown(context.Background())
		w.toldErr(pool.ErrShutdown, late)
		w.isGen(pool.Opened, 1)
		c[0].Put()
		w.pass(stopTime)
		w.returned(stop, true)
		w.returned(done, true)
	}},
	{"while tiproxy stops: the shorter drain counts", func(w *world) {
		w.toOpened(1)
		done := w.shutdown(context.Background())
		stop := w.stopLife(drain())
		w.pass(drainTime)
		w.isGen(pool.Shutdown, 1)
		w.pass(stopTime)
		w.returned(stop, true)
		w.returned(done, true)
	}},
	{"asked for twice: the shorter drain counts", func(w *world) {
		w.toOpened(1)
		first, second := w.stopLife(context.Background()), w.stopLife(drain())
		w.pass(drainTime + stopTime - 1)
		w.returned(first, false)
		w.returned(second, false)
		w.pass(1)
		w.returned(first, true)
		w.returned(second, true)
		equal(w.t, "stops", w.Snapshot().Stops[pool.ReasonAsked], 1)
	}},
	{"shutdown: it is waited for, for the reason it had", func(w *world) {
		w.toShutdown()
		done := w.stopLife(ended())
		w.pass(stopTime - 1)
		w.returned(done, false)
		w.pass(1)
		w.returned(done, true)
		equal(w.t, "stops asked for", w.Snapshot().Stops[pool.ReasonAsked], 0)
	}},
	{"and nobody comes", func(w *world) {
		c := w.toOpened(1)
		w.stopLife(context.Background())
		c[0].Put()
		w.pass(stopTime)
		w.isGen(pool.Closed, 1)
		w.pass(time.Hour)
		w.starts(1)
	}},
	{"and it must go by force", func(w *world) {
		w.res.SetScript(pooltest.Script{Stop: pooltest.Manual})
		w.one().Put()
		done := w.stopLife(context.Background())
		w.pass(time.Hour)
		w.returned(done, false)
		w.Kill()
		w.returned(done, true)
	}},
}

func TestTryStop(t *testing.T) { runCells(t, tryStopCells) }

// room asks for room and checks the answer.
func (w *world) room(want bool) <-chan struct{} {
	w.t.Helper()
	before := w.Snapshot()
	gone, ok := w.TryStop(pool.ReasonRoom)
	equal(w.t, "makes room", ok, want)
	equal(w.t, "says when it is gone", gone != nil, want)
	if !want {
		w.asBefore(before)
	}
	return gone
}

// asBefore checks that the life stays what it was before it was asked to go: also
// its idle end, unless somebody was found, or has come, since then.
func (w *world) asBefore(before pool.Snapshot) {
	w.t.Helper()
	after := w.Snapshot()
	equal(w.t, "state", after.State, before.State)
	equal(w.t, "life", after.Gen, before.Gen)
	if after.IdleSince.IsZero() && !before.IdleSince.IsZero() {
		equal(w.t, "idle end of a life that is used", after.IdleEnd, time.Time{})
		return
	}
	equal(w.t, "idle end", after.IdleEnd, before.IdleEnd)
}

var tryStopCells = []cell{
	{"closed", func(w *world) { w.room(false) }},
	{"starting", func(w *world) {
		c := w.toStarting(1)
		w.room(false)
		c[0].leave(nil)
		w.settle()
		w.room(false)
	}},
	{"opened and idle", func(w *world) {
		w.toOpened(1)[0].Put()
		gone := w.room(true)
		w.isGen(pool.Shutdown, 1)
		equal(w.t, "reason", w.event(pool.EventShutdown).Reason, pool.ReasonRoom)
		w.returned(gone, false)
		c := w.one()
		w.pass(stopTime)
		w.returned(gone, true)
		w.serves(2, c)
	}},
	{"opened and in use", func(w *world) {
		w.toOpened(1)
		w.room(false)
		w.isGen(pool.Opened, 1)
	}},
	{"opened with quiet connections only", func(w *world) {
		w.toOpened(1)[0].lease.Rest()
		w.room(true)
	}},
	{"opened and idle: refused once, the idle time goes on", func(w *world) {
		c := w.toOpened(1)
		w.room(false)
		c[0].Put()
		w.pass(idleTime)
		w.isGen(pool.Shutdown, 1)
		w.room(false)
		equal(w.t, "reason", w.event(pool.EventShutdown).Reason, pool.ReasonIdle)
	}},
	{"opened and idle, too young", func(w *world) {
		w.Configure(pool.Config{Idle: idleTime, MinUptime: youth})
		w.toOpened(1)[0].Put()
		w.pass(youth - 1)
		w.room(false)
		w.Configure(pool.Config{MinUptime: youth})
		w.room(false)
		w.pass(1)
		w.room(true)
	}},
	{"opened, never idle by itself", func(w *world) {
		w.Configure(pool.Config{})
		w.toOpened(1)[0].Put()
		w.pass(time.Hour)
		w.room(true)
	}},
	{"opened and to be stopped", func(w *world) {
		w.toOpened(1)
		w.stopLife(context.Background())
		w.room(false)
	}},
	{"opened while tiproxy stops", func(w *world) {
		w.toOpened(1)
		w.shutdown(context.Background())
		w.room(false)
	}},
	{"shutdown", func(w *world) {
		w.toShutdown()
		w.room(false)
	}},
}

func TestKeep(t *testing.T) { runCells(t, keepCells) }

var keepCells = []cell{
	{"wakes it, and keeps it awake", func(w *world) {
		k := w.keep()
		w.isGen(pool.Starting, 1)
		equal(w.t, "waiting", w.Snapshot().Waiting, 1)
		w.ready()
		w.leased(1, k)
		s := w.Snapshot()
		equal(w.t, "held", s.Held, 1)
		equal(w.t, "connections", s.Connections, 0)
		equal(w.t, "granted", s.Granted, 0)
		c := w.one()
		equal(w.t, "connections", w.Snapshot().Connections, 1)
		c.Put()
		w.pass(10 * idleTime)
		w.isGen(pool.Opened, 1)
		w.room(false)
		k.Put()
		k.Put()
		equal(w.t, "held", w.Snapshot().Held, 0)
		w.pass(idleTime - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
	}},
	{"is told of a start that failed", func(w *world) {
		k := w.keep()
		w.exit(exit3)
		w.toldFailed(1, time.Now(), k)
	}},
	{"is over with its life", func(w *world) {
		k := w.keep()
		w.ready()
		w.exit(exit0)
		equal(w.t, "lease done", isDone(k), true)
		equal(w.t, "held", w.Snapshot().Held, 0)
		w.isGen(pool.Closed, 1)
	}},
	{"is waited for by a stop", func(w *world) {
		k := w.keep()
		w.ready()
		done := w.stopLife(context.Background())
		w.pass(time.Hour)
		w.returned(done, false)
		k.Put()
		w.pass(stopTime)
		w.returned(done, true)
	}},
	{"ends with tiproxy", func(w *world) {
		w.shutdown(context.Background())
		w.toldErr(pool.ErrShutdown, w.keep())
	}},
}
