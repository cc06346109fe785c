package pool_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

func TestConfigure(t *testing.T) { runCells(t, configureCells) }

var configureCells = []cell{
	{"shorter idle time, not over", func(w *world) {
		w.toOpened(1)[0].Put()
		w.pass(10 * time.Second)
		w.Configure(pool.Config{Idle: 15 * time.Second})
		w.pass(5*time.Second - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
	}},
	{"shorter idle time, over already", func(w *world) {
		w.toOpened(1)[0].Put()
		w.pass(10 * time.Second)
		w.Configure(pool.Config{Idle: time.Second})
		w.isGen(pool.Shutdown, 1)
		equal(w.t, "reason", w.event(pool.EventShutdown).Reason, pool.ReasonIdle)
	}},
	{"longer idle time", func(w *world) {
		w.toOpened(1)[0].Put()
		w.pass(idleTime - 1)
		w.Configure(pool.Config{Idle: 2 * idleTime})
		w.pass(idleTime)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
	}},
	{"no idle time, and one again", func(w *world) {
		w.toOpened(1)[0].Put()
		since := time.Now()
		w.Configure(pool.Config{})
		w.pass(idleTime)
		equal(w.t, "idle since", w.Snapshot().IdleSince, since)
		equal(w.t, "idle end", w.Snapshot().IdleEnd, time.Time{})
		w.isGen(pool.Opened, 1)
		w.Configure(pool.Config{Idle: idleTime + 1})
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
	}},
	{"idle time of a life in use", func(w *world) {
		c := w.toOpened(1)
		w.Configure(pool.Config{Idle: time.Second})
		w.pass(time.Hour)
		w.isGen(pool.Opened, 1)
		c[0].Put()
		w.pass(time.Second)
		w.isGen(pool.Shutdown, 1)
	}},
	{"idle time of a life that takes nobody any more", func(w *world) {
		w.toOpened(1)
		w.stopLife(context.Background())
		w.Configure(pool.Config{Idle: 1})
		w.pass(time.Hour)
		w.isGen(pool.Opened, 1)
	}},
	{"minimum uptime", func(w *world) {
		w.toOpened(1)[0].Put()
		w.Configure(pool.Config{Idle: idleTime, MinUptime: youth})
		w.pass(youth - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
	}},
	{"start timeout: from the next start on", func(w *world) {
		w.toStarting(1)
		w.Configure(pool.Config{StartTimeout: time.Second})
		w.pass(startTimeout - 1)
		w.isGen(pool.Starting, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
		c := w.one()
		w.pass(stopTime + time.Second)
		w.toldFailed(2, time.Now(), c)
		w.toldErr(pool.ReasonTimeout, c)
		equal(w.t, "says how long it had", strings.Contains(c.err.Error(), "not ready after 1s"), true)
	}},
	{"notify stays", func(w *world) {
		w.Configure(pool.Config{})
		w.toStarting(1)
		w.event(pool.EventStarting)
	}},
}

// Whoever waits because of the old rate looks again, and starts of the past
// count against the new one.
func TestConfigureWakeRate(t *testing.T) {
	limited := func(n int) pool.Config {
		return pool.Config{Idle: time.Second, WakeRate: pool.Rate{N: n, Per: time.Minute}}
	}
	playWith(t, limited(2), pooltest.Script{}, func(w *world) {
		w.cycle("a")
		w.cycle("a")
		c := w.comeFrom(context.Background(), "a")
		w.waits(c)
		w.Configure(limited(3))
		w.leased(3, c)
		c.Put()
		w.pass(time.Second)

		w.Configure(limited(1))
		last := w.comeFrom(context.Background(), "a")
		w.waits(last)
		w.pass(57 * time.Second)
		w.waits(last)
		w.pass(2 * time.Second)
		w.leased(4, last)
		last.Put()
		w.pass(time.Second)

		c = w.comeFrom(context.Background(), "a")
		w.waits(c)
		w.Configure(limited(0))
		w.leased(5, c)
		equal(w.t, "sources", w.Sources(), 0)
	})
}

// A life stays what it was started as; the next one is the new resource.
func TestSetResource(t *testing.T) {
	play(t, slowly, func(w *world) {
		next := pooltest.New(pooltest.Script{})
		c := w.toStarting(1)
		w.SetResource(next)
		w.ready()
		w.leased(1, c...)
		w.pass(time.Hour)
		w.isGen(pool.Opened, 1)
		c[0].Put()
		w.pass(idleTime)
		late := w.one()
		w.pass(stopTime)
		w.leased(2, late)
		w.starts(1)
		equal(t, "lives of the new one", next.Starts(), 1)
		next.Last().End(exit0)
		w.settle()
		next.Verify(t)
	})
}

// A start that was decided is of the resource of that moment, though the life
// before tells its end first.
func TestSetResourceAfterTheDecision(t *testing.T) {
	var hold chan struct{}
	cfg := pool.Config{Notify: func(ev pool.Event) {
		if ev.Kind == pool.EventClosed && ev.Gen == 1 {
			<-hold
		}
	}}
	playWith(t, cfg, pooltest.Script{}, func(w *world) {
		hold = make(chan struct{})
		w.one()
		w.exit(exit0)
		c := w.one()
		w.isGen(pool.Starting, 2)
		next := pooltest.New(pooltest.Script{})
		w.SetResource(next)
		close(hold)
		w.leased(2, c)
		w.starts(2)
		equal(t, "lives of the new one", next.Starts(), 0)
	})
}
