package budget_test

import (
	"errors"
	"testing"
	"time"

	"tiproxy/internal/budget"
	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

type (
	groups = map[string]budget.Group
	terms  = map[string]budget.Terms
	uses   = map[string]int64
)

// roomFor is a group g with room for n of the services, of which each may wait.
func roomFor(n int, names ...string) budget.Plan {
	p := budget.Plan{Groups: groups{"g": {Children: n, Wait: waitTime}}, Terms: terms{}}
	for _, name := range names {
		p.Terms[name] = budget.Terms{Group: "g"}
	}
	return p
}

// memory is a group g with that much memory, of which each service uses some.
func memory(most int64, use uses) budget.Plan {
	p := budget.Plan{Groups: groups{"g": {Amounts: uses{"memory": most}}}, Terms: terms{}}
	for name, n := range use {
		p.Terms[name] = budget.Terms{Group: "g", Uses: uses{"memory": n}}
	}
	return p
}

func TestRoomForOne(t *testing.T) {
	play(t, roomFor(1, "a", "b", "c"), func(w *town) {
		a := w.come("a")
		w.pass(bootTime)
		w.served(a)
		b, c := w.come("b"), w.come("c")
		equal(w.t, "queue", w.queue(), []string{"b", "c"})
		equal(w.t, "told to wait", w.logged("waits for room"), 2)
		w.pass(10 * time.Second)
		w.waits(b, c)
		w.awake("a")
		a.put() // the last one out makes room at once
		w.pass(stopTime - 1)
		w.awake("a")
		w.waits(b, c)
		w.pass(1)
		w.awake("b")
		w.pass(bootTime)
		w.served(b)
		w.waits(c)
		b.put()
		w.pass(stopTime + bootTime)
		w.served(c)
		w.awake("c")
		w.inOrder("a shutdown", "a closed", "b starting", "b closed", "c starting")
		equal(w.t, "told who goes", w.logged("room needed"), 2)
		equal(w.t, "reason", w.services["a"].pool.Snapshot().Stops[pool.ReasonRoom], 1)
	})
}

// Services without a group, or in groups without limits, never wait.
func TestNoLimits(t *testing.T) {
	p := roomFor(0, "a", "b")
	p.Terms["c"], p.Terms["d"] = budget.Terms{}, budget.Terms{}
	play(t, p, func(w *town) {
		all := []*client{w.come("a"), w.come("b"), w.come("c"), w.come("d")}
		w.pass(bootTime)
		w.served(all...)
	})
}

func TestLongestUnusedGoesFirst(t *testing.T) {
	play(t, roomFor(3, "a", "b", "c", "d", "e"), func(w *town) {
		w.serve("b", "c", "a")
		w.serve("b") // again: now c has been unused for longest
		d := w.come("d")
		w.pass(stopTime + bootTime)
		w.served(d)
		w.awake("a", "b", "d")
		w.serve("d")
		e := w.come("e")
		w.pass(stopTime + bootTime)
		w.served(e)
		w.awake("b", "d", "e")
	})
}

// No more are put to sleep than are necessary, and nobody if it is not enough.
func TestOnlyWhatIsNecessary(t *testing.T) {
	for _, c := range []struct {
		name string
		use  uses // of 10; a, b and c are used in this order, k keeps its client
		want []string
	}{
		{"one is enough", uses{"a": 3, "b": 3, "c": 3, "k": 1, "new": 3}, []string{"b", "c", "k", "new"}},
		{"two", uses{"a": 3, "b": 3, "c": 3, "k": 1, "new": 4}, []string{"c", "k", "new"}},
		{"the first is too small, and the second enough alone", uses{"a": 1, "b": 5, "c": 3, "k": 1, "new": 4}, []string{"a", "c", "k", "new"}},
		{"it fits already", uses{"a": 1, "b": 1, "c": 1, "k": 1, "new": 6}, []string{"a", "b", "c", "k", "new"}},
		{"all", uses{"a": 3, "b": 3, "c": 3, "k": 1, "new": 9}, []string{"k", "new"}},
		{"not even all", uses{"a": 3, "b": 3, "c": 3, "k": 1, "new": 10}, []string{"a", "b", "c", "k"}},
		{"what takes nothing of it stays", uses{"a": 0, "b": 5, "c": 4, "k": 1, "new": 5}, []string{"a", "c", "k", "new"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			play(t, memory(10, c.use), func(w *town) {
				w.serve("a", "b", "c")
				k := w.come("k")
				w.pass(bootTime)
				w.served(k)
				w.come("new")
				w.pass(stopTime + bootTime)
				w.awake(c.want...)
			})
		})
	}
}

// A member that has a client is never chosen, and one that is needed by its own
// operator neither.
func TestWhoIsUsedStays(t *testing.T) {
	play(t, roomFor(2, "a", "b", "c"), func(w *town) {
		a, b := w.come("a"), w.keep("b")
		w.pass(bootTime)
		c := w.come("c")
		w.pass(waitTime / 2)
		w.waits(c)
		w.awake("a", "b")
		b.put()
		w.pass(stopTime + bootTime)
		w.served(c)
		w.awake("a", "c")
		a.put()
	})
}

func TestMinUptime(t *testing.T) {
	play(t, roomFor(1, "b"), func(w *town) {
		p := roomFor(1, "a", "b")
		w.join("a", pool.Config{MinUptime: 30 * time.Second}, usual)
		w.configure(p)
		w.serve("a")
		b := w.come("b")
		w.pass(29*time.Second - 1)
		w.awake("a")
		equal(w.t, "shutdowns of a", w.when("a shutdown").IsZero(), true)
		w.pass(1)
		equal(w.t, "a was stopped", w.when("a shutdown"), time.Now())
		w.pass(stopTime + bootTime)
		w.served(b)
	})
}

// A big request is not starved by small ones that would fit.
func TestInOrder(t *testing.T) {
	play(t, memory(10, uses{"a": 5, "big": 10, "small": 1}), func(w *town) {
		a := w.come("a")
		w.pass(bootTime)
		big := w.come("big")
		small := w.come("small")
		more := w.come("a") // has its room
		w.served(more)
		equal(w.t, "queue", w.queue(), []string{"big", "small"})
		w.pass(time.Second)
		w.waits(big, small)
		a.put()
		more.put()
		w.pass(stopTime + bootTime)
		w.served(big)
		w.waits(small)
		big.put()
		w.pass(stopTime + bootTime)
		w.served(small)
	})
}

// Those of different groups do not wait for each other.
func TestGroupsAreIndependent(t *testing.T) {
	p := roomFor(1, "a", "b")
	p.Groups["h"] = budget.Group{Children: 1}
	p.Terms["x"], p.Terms["y"] = budget.Terms{Group: "h"}, budget.Terms{Group: "h"}
	play(t, p, func(w *town) {
		w.come("a")
		w.serve("x")
		b := w.come("b")
		y := w.come("y")
		w.pass(stopTime + bootTime)
		w.served(y)
		w.waits(b)
	})
}

// All clients of a service wait as one, and are let in as one.
func TestCrowd(t *testing.T) {
	play(t, roomFor(1, "a", "b"), func(w *town) {
		a := w.come("a")
		w.pass(bootTime)
		var crowd []*client
		for range 50 {
			crowd = append(crowd, w.come("b"))
		}
		q := w.ledger.Snapshot()[0].Queue
		equal(w.t, "entries", len(q), 1)
		equal(w.t, "clients", q[0].Clients, 50)
		crowd[0].leave(errLeft)
		a.put()
		w.pass(stopTime + bootTime)
		w.served(crowd[1:]...)
		equal(w.t, "told to wait", w.logged("waits for room"), 1)
		equal(w.t, "error", crowd[0].err, errLeft)
	})
}

func TestWaitIsBounded(t *testing.T) {
	play(t, roomFor(1, "a", "b"), func(w *town) {
		a := w.come("a")
		w.pass(bootTime)
		since := time.Now()
		b := []*client{w.come("b"), w.come("b")}
		w.pass(time.Second)
		late := w.come("b")
		w.pass(waitTime)
		var none *budget.NoRoomError
		for _, c := range b {
			if !errors.As(c.err, &none) || c.at != since.Add(waitTime) {
				w.t.Errorf("error %v after %v", c.err, c.at.Sub(since))
			}
		}
		equal(w.t, "error", none.Error(), `no room in group "g" for service "b" within 1m0s: the room in g is taken by a`)
		equal(w.t, "lines", w.logged("no room"), 1)
		equal(w.t, "late is answered", late.answered(), true)
		equal(w.t, "queue", len(w.queue()), 0)
		a.put()
		w.pass(stopTime)
		w.awake("a") // nobody waits any more
	})
}

// Who leaves the queue makes way for those behind, and frees nothing that is his.
func TestLeaving(t *testing.T) {
	play(t, memory(10, uses{"a": 5, "big": 10, "small": 5}), func(w *town) {
		a := w.come("a")
		w.pass(bootTime)
		big, small := w.come("big"), w.come("small")
		w.waits(small)
		big.leave(errLeft)
		w.pass(bootTime)
		equal(w.t, "error", big.err, errLeft)
		w.served(small)
		a.put()
	})
}

func TestNeverRoom(t *testing.T) {
	p := memory(10, uses{"a": 10})
	play(t, p, func(w *town) {
		p := memory(10, uses{"a": 11})
		if err := w.ledger.Configure(p); err == nil {
			w.t.Errorf("no error for a service that is too big")
		}
		p = memory(5, uses{"a": 5})
		w.configure(p)
		w.serve("a")
	})
}

// A client who comes for a member that is put to sleep for others is behind them,
// and is served when his turn comes.
func TestComesBackAtOnce(t *testing.T) {
	play(t, roomFor(1, "a", "b"), func(w *town) {
		w.serve("a")
		b := w.come("b")
		again := w.come("a")
		equal(w.t, "queue", w.queue(), []string{"b", "a"})
		w.pass(stopTime + bootTime)
		w.served(b)
		w.waits(again)
		w.pass(time.Second)
		b.put()
		w.pass(stopTime + bootTime)
		w.served(again)
		w.inOrder("a shutdown", "a closed", "b opened", "b closed", "a opened")
	})
}

// Both at the same moment, in any order: either the client keeps the life, or he
// waits for his turn.
func TestComesAtTheSameMoment(t *testing.T) {
	for range 200 {
		play(t, roomFor(1, "a", "b"), func(w *town) {
			w.serve("a")
			b := w.call(&client{of: w.services["b"]})
			a := w.call(&client{of: w.services["a"]})
			for range 4 {
				w.pass(stopTime + bootTime)
				for _, c := range []*client{a, b} {
					if c.answered() {
						c.put()
					}
				}
			}
			w.pass(stopTime + bootTime)
			for _, c := range []*client{a, b} {
				if !c.answered() || c.err != nil {
					w.t.Errorf("%s of %s: answered %v, error %v", c.who, c.of.name, c.answered(), c.err)
				}
			}
		})
	}
}

// The room of a life that goes by itself is waited for, instead of putting
// another one to sleep, and whoever comes for it now is behind.
func TestOneGoesAnyway(t *testing.T) {
	play(t, roomFor(2, "b", "c"), func(w *town) {
		w.join("a", pool.Config{Idle: time.Minute}, usual)
		w.configure(roomFor(2, "a", "b", "c"))
		w.serve("b", "a")
		w.pass(time.Minute - time.Second)
		equal(w.t, "a is being stopped", w.when("a shutdown"), time.Now())
		c := w.come("c")
		equal(w.t, "nobody has to make room", w.logged("waits for room"), 1)
		again := w.come("a")
		w.pass(stopTime + bootTime)
		w.served(c)
		w.inOrder("a closed", "b shutdown")
		w.pass(stopTime + bootTime)
		w.served(again)
		w.awake("a", "c")
	})
}

func TestCrashMakesRoom(t *testing.T) {
	play(t, roomFor(1, "a", "b"), func(w *town) {
		w.come("a")
		w.pass(bootTime)
		b := w.come("b")
		w.services["a"].Last().End(pool.Exit{Status: "exit status 1", Err: errLeft})
		w.pass(bootTime)
		w.served(b)
	})
}

func TestFailedStartGivesRoomBack(t *testing.T) {
	play(t, roomFor(1, "a", "b"), func(w *town) {
		w.services["a"].SetScript(pooltest.Script{Ready: bootTime, ReadyError: errLeft, Stop: stopTime})
		a, b := w.come("a"), w.come("b")
		w.pass(bootTime + time.Second) // it is given a moment to say more
		if !a.answered() || !errors.Is(a.err, errLeft) {
			w.t.Fatalf("answered %v, error %v", a.answered(), a.err)
		}
		w.waits(b)
		w.awake("a")
		w.pass(stopTime + bootTime)
		w.served(b)
		w.inOrder("a failed", "a closed", "b starting")
	})
}

// A service that never starts, and whose clients come again before the last ones
// are gone, does not keep its room from those who wait.
func TestFailedStartYields(t *testing.T) {
	play(t, roomFor(1, "a", "b"), func(w *town) {
		a := w.services["a"]
		a.SetScript(pooltest.Script{SpawnError: errLeft, Spawn: bootTime})
		var again *client
		a.failed = func() {
			again = w.call(&client{of: a})
			<-time.After(1) // until he waits
		}
		w.come("a")
		b := w.come("b")
		w.pass(waitTime / 2)
		w.served(b)
		w.waits(again)
		a.SetScript(usual)
		b.put()
		w.pass(stopTime + bootTime)
		w.served(again)
	})
}

// Whoever has come before that has his start, and then those who had to stand in
// line because of others have it too.
func TestFailedStartYieldsInVain(t *testing.T) {
	play(t, roomFor(1, "a", "b"), func(w *town) {
		a := w.services["a"]
		a.SetScript(pooltest.Script{SpawnError: errLeft, Spawn: bootTime})
		var before, after *client
		impatient := make(chan *client, 1)
		a.failing = func() {
			a.SetScript(usual)
			before = w.call(&client{of: a})
			<-time.After(1)
		}
		a.failed = func() {
			after = w.call(&client{of: a})
			<-time.After(1)
			(<-impatient).leave(errLeft)
			<-time.After(1)
		}
		w.come("a")
		impatient <- w.come("b")
		w.pass(2*bootTime + time.Second)
		w.served(before, after)
	})
}

// A client who leaves while his service starts leaves it its room.
func TestStartGoesOnAlone(t *testing.T) {
	play(t, roomFor(1, "a", "b"), func(w *town) {
		a := w.come("a")
		a.leave(errLeft)
		b := w.come("b")
		w.pass(bootTime)
		w.inOrder("a opened", "a shutdown")
		w.pass(stopTime + bootTime)
		w.served(b)
	})
}

func TestClose(t *testing.T) {
	play(t, roomFor(1, "a", "b"), func(w *town) {
		a := w.come("a")
		w.pass(bootTime)
		b := w.come("b")
		w.ledger.Close()
		w.pass(1)
		late := w.come("b")
		for _, c := range []*client{b, late} {
			if !errors.Is(c.err, pool.ErrShutdown) {
				w.t.Errorf("error %v", c.err)
			}
		}
		more := w.come("a")
		w.served(a, more)
	})
}
