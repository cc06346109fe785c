package pool_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// A life that was just opened is kept for the minimum, and from then on only
// the idle time counts.
func TestMinUptime(t *testing.T) {
	cfg := pool.Config{Idle: idleTime, MinUptime: youth}
	playWith(t, cfg, pooltest.Script{Ready: bootTime}, func(w *world) {
		c := w.one()
		w.pass(bootTime)
		c.Put()
		w.pass(youth - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Closed, 1)

		c = w.one()
		w.pass(bootTime + youth)
		c.Put()
		w.pass(idleTime - 1)
		w.isGen(pool.Opened, 2)
		w.pass(1)
		w.isGen(pool.Closed, 2)
	})
}

// The minimum uptime does not hold up the end of tiproxy.
func TestMinUptimeEndsWithThePool(t *testing.T) {
	playWith(t, pool.Config{Idle: idleTime, MinUptime: youth}, pooltest.Script{}, func(w *world) {
		w.one().Put()
		w.returned(w.shutdown(context.Background()), true)
		w.isGen(pool.Closed, 1)
	})
}

func playLimited(t *testing.T, n int, test func(w *world)) {
	t.Helper()
	cfg := pool.Config{Idle: time.Second, StartTimeout: startTimeout, WakeRate: pool.Rate{N: n, Per: time.Minute}}
	playWith(t, cfg, pooltest.Script{}, test)
}

// cycle lets a client of a source start a life that is stopped after a second.
func (w *world) cycle(source string) {
	w.t.Helper()
	gen := w.Snapshot().Gen + 1
	c := w.comeFrom(context.Background(), source)
	w.leased(gen, c)
	c.Put()
	w.pass(time.Second)
	w.is(pool.Closed)
}

// Beyond its rate a source waits, until its oldest start is forgotten, and not
// a moment longer.
func TestWakeRate(t *testing.T) {
	playLimited(t, 2, func(w *world) {
		began := time.Now()
		w.cycle("a")
		w.cycle("a")
		c := w.comeFrom(context.Background(), "a")
		w.waits(c)
		w.starts(2)
		w.pass(time.Until(began.Add(time.Minute)) - 1)
		w.waits(c)
		w.pass(1)
		w.leased(3, c)
	})
}

// One source's rate is nobody else's, and who waits for his own is served as
// soon as somebody else has started the life.
func TestWakeRateOfOthers(t *testing.T) {
	playLimited(t, 1, func(w *world) {
		w.cycle("a")
		c := w.comeFrom(context.Background(), "a")
		w.waits(c)
		w.leased(2, w.comeFrom(context.Background(), "b"), c)
	})
}

// Callers without a source, as on a unix socket, are not limited.
func TestWakeRateWithoutASource(t *testing.T) {
	playLimited(t, 1, func(w *world) {
		for range 5 {
			w.cycle("")
		}
		w.starts(5)
	})
}

// Whoever shares a start, or comes while the life is there, uses up nothing.
func TestWakeRateCountsStartsOnly(t *testing.T) {
	playLimited(t, 2, func(w *world) {
		for range 20 {
			c := w.comeFrom(context.Background(), "a")
			w.leased(1, c)
			c.Put()
		}
		w.pass(time.Second)
		w.cycle("a")
		w.starts(2)
	})
}

func TestWakeRateIsToldOnce(t *testing.T) {
	playLimited(t, 1, func(w *world) {
		began := time.Now()
		w.cycle("a")
		w.res.SetScript(slowly)
		var told []time.Time
		ctx, leave := context.WithCancel(context.Background())
		held := func(until time.Time) { told = append(told, until) }
		done := make(chan error, 1)
		go func() {
			_, err := w.Get(ctx, pool.Caller{Name: "x", Source: "a", Held: held})
			done <- err
		}()
		synctest.Wait()
		w.one() // makes the other look again
		w.ready()
		if err := <-done; err != nil {
			t.Error(err)
		}
		leave()
		if len(told) != 1 || !told[0].Equal(began.Add(time.Minute)) {
			t.Errorf("told %v, want %v once", told, began.Add(time.Minute))
		}
	})
}

// What is remembered of the sources is bounded by the starts of one period.
func TestWakeRateForgets(t *testing.T) {
	playLimited(t, 1, func(w *world) {
		for _, source := range []string{"a", "b", "c", "d"} {
			w.cycle(source)
		}
		equal(w.t, "sources", w.Sources(), 4)
		w.pass(time.Minute)
		w.cycle("e")
		equal(w.t, "sources", w.Sources(), 1)
	})
}

// A quiet connection does not keep its life awake; idle time counts from the
// moment it became quiet.
func TestRestingLease(t *testing.T) {
	play(t, pooltest.Script{Stop: stopTime}, func(w *world) {
		c := w.arrive(2)
		c[1].lease.Rest()
		w.pass(2 * idleTime)
		w.isGen(pool.Opened, 1)
		c[0].lease.Rest()
		equal(w.t, "connections", w.Snapshot().Connections, 2)
		equal(w.t, "resting", w.Snapshot().Resting, 2)
		w.pass(idleTime - 1)
		w.isGen(pool.Opened, 1)
		w.pass(1)
		w.isGen(pool.Shutdown, 1)
		c[0].lease.Rouse() // too late, and no harm
		w.pass(stopTime)
		w.isGen(pool.Closed, 1)
	})
}

// A byte in time keeps the life.
func TestRousedLease(t *testing.T) {
	play(t, pooltest.Script{}, func(w *world) {
		c := w.one()
		c.lease.Rest()
		w.pass(idleTime - 1)
		c.lease.Rouse()
		c.lease.Rouse()
		w.pass(10 * idleTime)
		w.isGen(pool.Opened, 1)
		c.lease.Rest()
		c.Put()
		c.lease.Rouse()
		w.pass(idleTime)
		w.isGen(pool.Closed, 1)
	})
}

// tiproxy's end does not wait for the quiet ones.
// Who wants it awake is not quiet.
func TestHoldDoesNotRest(t *testing.T) {
	play(t, slowly, func(w *world) {
		w.toOpened(1)[0].Put()
		k := w.keep()
		w.settle()
		k.lease.Rest()
		w.pass(10 * idleTime)
		w.isGen(pool.Opened, 1)
		equal(w.t, "resting", w.Snapshot().Resting, 0)
		w.one()
		equal(w.t, "used", w.Use().Vacant.IsZero(), true)
	})
}

func TestShutdownDoesNotWaitForTheResting(t *testing.T) {
	play(t, pooltest.Script{}, func(w *world) {
		c := w.arrive(2)
		c[0].lease.Rest()
		done := w.shutdown(context.Background())
		w.returned(done, false)
		c[1].lease.Rest()
		w.returned(done, true)
	})
}
