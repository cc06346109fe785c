package budget_test

import (
	"errors"
	"testing"
	"time"

	"tiproxy/internal/budget"
	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// chain is app, which needs db and cache, of which db needs disk; and other. All
// of them share room for n.
func chain(n int) budget.Plan {
	p := roomFor(n, "app", "db", "cache", "disk", "other")
	p.Terms["app"] = budget.Terms{Group: "g", Needs: []string{"db", "cache"}}
	p.Terms["db"] = budget.Terms{Group: "g", Needs: []string{"disk"}}
	return p
}

var crash = pool.Exit{Status: "exit status 1", Err: errors.New("exit status 1")}

// boots is how long so many starts take one after the other.
func boots(n int) time.Duration { return time.Duration(n) * bootTime }

func TestNeedsAreReadyFirst(t *testing.T) {
	play(t, chain(0), func(w *town) {
		came := time.Now()
		c := w.come("app")
		w.pass(boots(4))
		w.served(c)
		for i, name := range []string{"disk", "db", "cache", "app"} {
			equal(w.t, name+" was started after", w.when(name+" starting").Sub(came), boots(i))
			equal(w.t, name+" was ready after", w.when(name+" opened").Sub(came), boots(i+1))
		}
	})
}

// Needs are kept for as long as something of the life exists, and no longer.
func TestNeedsAreKept(t *testing.T) {
	play(t, chain(0), func(w *town) {
		for _, s := range w.services {
			s.pool.Configure(pool.Config{Idle: time.Minute})
		}
		c := w.come("app")
		w.pass(boots(4))
		w.served(c)
		w.pass(time.Hour)
		w.awake("app", "cache", "db", "disk")
		c.put()
		w.pass(time.Minute + stopTime - 1)
		w.awake("app", "cache", "db", "disk")
		w.pass(1)
		w.awake("cache", "db", "disk")
		w.pass(time.Minute + stopTime)
		w.awake("disk")
		w.pass(time.Minute + stopTime)
		w.awake()
	})
}

func TestNeedFails(t *testing.T) {
	play(t, chain(0), func(w *town) {
		w.services["disk"].SetScript(pooltest.Script{SpawnError: errLeft})
		a, b := w.come("app"), w.come("app")
		var need *budget.NeedError
		var start *pool.StartError
		for _, c := range []*client{a, b} {
			if !c.answered() || !errors.As(c.err, &need) || !errors.As(c.err, &start) || !errors.Is(c.err, errLeft) {
				w.t.Fatalf("answered %v, error %v", c.answered(), c.err)
			}
		}
		equal(w.t, "error", a.err.Error(), `service "app" needs "db": service "db" needs "disk": start 1 failed: left`)
		equal(w.t, "starts of app", w.services["app"].Starts(), 0)
		w.services["disk"].SetScript(usual)
		c := w.come("app")
		w.pass(time.Second + boots(4)) // after two failures in a row a start is held back
		w.served(c)
	})
}

// A need that crashes is started again for those who need it, and its room is
// kept for it.
func TestNeedCrashes(t *testing.T) {
	play(t, chain(4), func(w *town) {
		c := w.come("app")
		w.pass(boots(4))
		w.served(c)
		other := w.come("other")
		w.services["disk"].Last().End(crash)
		w.pass(bootTime)
		w.awake("app", "cache", "db", "disk")
		equal(w.t, "starts of disk", w.services["disk"].Starts(), 2)
		w.services["disk"].SetScript(pooltest.Script{SpawnError: errLeft})
		w.services["disk"].Last().End(crash)
		w.pass(10 * time.Second)
		w.awake("app", "cache", "db")
		w.waits(other)
		if n := w.services["disk"].Starts(); n < 3 || n > 10 {
			w.t.Errorf("%d starts of a need that fails", n)
		}
		w.services["disk"].SetScript(usual)
		w.pass(10 * time.Second)
		w.awake("app", "cache", "db", "disk")
		c.put()
		w.pass(2*stopTime + bootTime)
		w.served(other)
	})
}

// The room of a need that does not start is had back from those who need it.
func TestMissedNeedMakesRoom(t *testing.T) {
	p := roomFor(1, "db", "new")
	p.Terms["app"] = budget.Terms{Needs: []string{"db"}}
	play(t, p, func(w *town) {
		c := w.come("app")
		w.pass(boots(2))
		w.served(c)
		w.services["db"].SetScript(pooltest.Script{SpawnError: errLeft})
		w.services["db"].Last().End(crash)
		w.pass(10 * time.Second)
		n := w.come("new")
		w.pass(time.Second)
		w.waits(n)
		w.awake("app") // it has a client
		c.put()
		w.pass(stopTime + bootTime)
		w.served(n)
		w.awake("new")
	})
}

// What is no need any more is kept no longer.
func TestNeedIsNoneAnyMore(t *testing.T) {
	p := roomFor(1, "db", "new")
	p.Terms["app"] = budget.Terms{Needs: []string{"db"}}
	play(t, p, func(w *town) {
		c := w.come("app")
		w.pass(boots(2))
		w.served(c)
		n := w.come("new")
		w.pass(time.Second)
		w.waits(n)
		p := roomFor(1, "db", "new")
		p.Terms["app"] = budget.Terms{}
		w.configure(p)
		w.pass(stopTime + bootTime)
		w.served(n)
		w.awake("app", "new")
	})
}

// Whoever waits for a need that is none any more, because it leaves or is
// replaced, goes on without it.
func TestNeedLeavesMeanwhile(t *testing.T) {
	play(t, chain(0), func(w *town) {
		w.services["disk"].SetScript(pooltest.Script{Ready: time.Hour})
		c := w.come("app")
		w.pass(time.Second)
		old := w.services["disk"]
		w.join("disk", pool.Config{Idle: longIdle}, usual)
		w.configure(chain(0))
		w.waits(c)
		go old.pool.Shutdown(t.Context())
		w.pass(boots(4))
		w.served(c)
		w.awake("app", "cache", "db", "disk")
	})
}

// A need that has ended for good is waited for until it is replaced.
func TestNeedIsBetweenTwoOfItsName(t *testing.T) {
	play(t, chain(0), func(w *town) {
		old := w.services["db"]
		old.pool.Shutdown(t.Context())
		c, left := w.come("app"), w.come("app")
		w.pass(time.Hour)
		w.waits(c)
		left.leave(errLeft)
		w.pass(0)
		if !errors.Is(left.err, errLeft) {
			w.t.Errorf("who has left is told %v", left.err)
		}
		w.join("db", pool.Config{Idle: longIdle}, usual)
		w.waits(c)
		w.configure(chain(0))
		w.pass(boots(4))
		w.served(c)
		w.awake("app", "cache", "db", "disk")
	})
}

// Room is had for all that a service needs, or for none of it: two that each
// need half of the other's cannot wait for each other.
func TestAllOrNothing(t *testing.T) {
	p := roomFor(3, "x", "y", "left", "right", "mid")
	p.Terms["x"] = budget.Terms{Group: "g", Needs: []string{"left", "right"}}
	p.Terms["y"] = budget.Terms{Group: "g", Needs: []string{"right", "mid"}}
	play(t, p, func(w *town) {
		x, y := w.call(&client{of: w.services["x"]}), w.call(&client{of: w.services["y"]})
		for range 6 {
			w.pass(boots(3) + 2*stopTime)
			for _, c := range []*client{x, y} {
				if c.answered() {
					c.put()
				}
			}
		}
		for _, c := range []*client{x, y} {
			if !c.answered() || c.err != nil {
				w.t.Errorf("%s of %s: answered %v, error %v", c.who, c.of.name, c.answered(), c.err)
			}
		}
	})
}

// Nothing of a chain is started while there is no room for all of it.
func TestNothingStartsByHalves(t *testing.T) {
	play(t, chain(4), func(w *town) {
		o := w.come("other")
		w.pass(bootTime)
		c := w.come("app")
		w.pass(time.Second)
		w.awake("other")
		equal(w.t, "wants", w.ledger.Snapshot()[0].Queue[0].Wants, []string{"disk", "db", "cache", "app"})
		o.put()
		w.pass(stopTime + boots(4))
		w.served(c)
	})
}

// Whoever is needed by somebody unused goes after him, and is as young as he is.
func TestChainMakesRoom(t *testing.T) {
	p := roomFor(3, "app", "db", "a", "new", "both")
	p.Terms["app"] = budget.Terms{Group: "g", Needs: []string{"db"}}
	p.Terms["both"] = budget.Terms{Group: "g", Needs: []string{"new"}}
	play(t, p, func(w *town) {
		c := w.come("app")
		w.pass(boots(2))
		w.served(c)
		w.serve("a")
		c.put()
		w.pass(time.Second)
		n := w.come("new") // a was left before app, and db is as good as used
		w.pass(stopTime + bootTime)
		w.served(n)
		w.awake("app", "db", "new")
		b := w.come("both")
		w.pass(stopTime + bootTime)
		w.served(b) // new is there already: app makes room
		w.awake("both", "db", "new")
		b.put()
		n.put()
		c = w.come("app")
		w.pass(stopTime + bootTime)
		w.served(c)
		w.awake("app", "db", "new")
	})
}

// To free what is needed, who needs it has to go first; if that one is in use,
// nobody goes.
func TestNeedIsFreedLast(t *testing.T) {
	p := memory(10, uses{"db": 8, "new": 5})
	p.Terms["app"] = budget.Terms{Needs: []string{"db"}}
	play(t, p, func(w *town) {
		c := w.come("app")
		w.pass(boots(2))
		w.served(c)
		n := w.come("new")
		w.pass(time.Second)
		w.waits(n)
		direct := w.come("db")
		c.put()
		w.pass(time.Second)
		w.awake("app", "db") // somebody uses db: it would be in vain
		direct.put()
		w.pass(2*stopTime + bootTime)
		w.served(n)
		w.awake("new")
		w.inOrder("app shutdown", "app closed", "db shutdown", "db closed", "new starting")
	})
}

func TestWokenAlong(t *testing.T) {
	p := roomFor(2, "app", "side", "last")
	p.Terms["app"] = budget.Terms{Group: "g", Wake: []string{"side", "last"}}
	p.Terms["side"] = budget.Terms{Group: "g", Wake: []string{"app"}}
	play(t, p, func(w *town) {
		w.services["side"].SetScript(pooltest.Script{Ready: time.Hour})
		w.services["last"].SetScript(pooltest.Script{Ready: time.Hour})
		c := w.come("app")
		w.pass(bootTime)
		w.served(c) // not waited for
		equal(w.t, "awake", w.ledger.Snapshot()[0].UsedChildren, 2)
		equal(w.t, "not woken", w.logged("not woken along: there is no room"), 1)
		w.pass(time.Hour)
		for _, name := range []string{"side", "last"} {
			equal(w.t, name+" is used", w.services[name].pool.Use().Kept, 0)
		}
		w.services["last"].SetScript(usual)
		n := w.come("last")
		w.pass(stopTime + bootTime)
		w.served(n)
		c.put()
	})
}

// Who is on his way when the ledger closes is served, or told.
func TestStopOfTheWhole(t *testing.T) {
	play(t, chain(0), func(w *town) {
		c := w.come("app")
		w.pass(boots(1))
		w.waits(c)
		w.ledger.Close()
		w.pass(boots(4))
		if c.answered() && c.err != nil && !errors.Is(c.err, pool.ErrShutdown) {
			w.t.Errorf("error %v", c.err)
		}
	})
}
