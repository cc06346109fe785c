package budget_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tiproxy/internal/budget"
	"tiproxy/internal/pool"
)

func TestCheck(t *testing.T) {
	g := groups{"g": {Children: 2, Amounts: uses{"memory": 10}}}
	for _, c := range []struct {
		name  string
		terms terms
		want  []string
	}{
		{"nothing", nil, nil},
		{"right", terms{"a": {Group: "g", Uses: uses{"memory": 5}, Needs: []string{"b"}, Wake: []string{"a", "b"}}, "b": {Group: "g", Uses: uses{"memory": 5}}}, nil},
		{"no such group", terms{"a": {Group: "h"}}, []string{`service "a" is in group "h", which there is not`}},
		{"no such amount", terms{"a": {Group: "g", Uses: uses{"vram": 1}}}, []string{`service "a" uses vram, of which group "g" says nothing`}},
		{"less than nothing", terms{"a": {Group: "g", Uses: uses{"memory": -1}}}, []string{`service "a" uses -1 of memory`}},
		{"no such service", terms{"a": {Needs: []string{"x"}, Wake: []string{"y"}}}, []string{`service "a" needs "x", which there is not`, `service "a" wakes "y", which there is not`}},
		{"itself", terms{"a": {Needs: []string{"a"}}}, []string{`service "a" needs itself: a needs a`}},
		{"in a circle", terms{"a": {Needs: []string{"b"}}, "b": {Needs: []string{"c", "a"}}, "c": {}}, []string{`service "a" needs itself: a needs b needs a`, `service "b" needs itself: b needs a needs b`}},
		{"before a circle", terms{"a": {Needs: []string{"b"}}, "b": {Needs: []string{"b"}}}, []string{`service "b" needs itself: b needs b`}},
		{"too big", terms{"a": {Group: "g", Uses: uses{"memory": 11}}}, []string{`there is never room in group "g" for service "a": it takes 11 of memory with what it needs, and there are 10`}},
		{"too many", terms{"a": {Group: "g", Needs: []string{"b"}}, "b": {Group: "g", Needs: []string{"c"}}, "c": {Group: "g"}}, []string{`there is never room in group "g" for service "a": it takes 3 of children with what it needs, and there are 2`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if err := (budget.Plan{Groups: g, Terms: c.terms}).Check(); err != nil {
				got = err.Error()
			}
			equal(t, "error", got, strings.Join(c.want, "\n"))
		})
	}
}

func TestConfigureStrangers(t *testing.T) {
	l := budget.New(nil)
	if err := l.Configure(roomFor(1, "a")); err == nil {
		t.Error("no error for a service that has not joined")
	}
}

// More room lets in at once; less stops nobody.
func TestLimitsChange(t *testing.T) {
	names := []string{"a", "b", "c"}
	play(t, roomFor(1, names...), func(w *town) {
		a := w.come("a")
		w.pass(bootTime)
		b := w.come("b")
		w.waits(b)
		w.configure(roomFor(2, names...))
		w.pass(bootTime)
		w.served(b)
		w.configure(roomFor(1, names...))
		w.pass(time.Second)
		w.awake("a", "b")
		equal(w.t, "used", w.ledger.Snapshot()[0].UsedChildren, 2)
		c := w.come("c")
		a.put()
		w.pass(stopTime)
		w.awake("a", "b") // a alone would not be enough
		w.waits(c)
		b.put()
		w.pass(stopTime + bootTime)
		w.served(c)
	})
}

// Who waits for room that there can never be any more is told at once.
func TestNeverRoomAnyMore(t *testing.T) {
	play(t, memory(10, uses{"a": 4, "b": 8}), func(w *town) {
		w.come("a")
		w.pass(bootTime)
		b := w.come("b")
		w.waits(b)
		p := memory(10, uses{"a": 4, "b": 8})
		delete(p.Terms, "b")
		w.configure(p)
		w.pass(1)
		if !errors.Is(b.err, pool.ErrShutdown) {
			w.t.Errorf("error %v", b.err)
		}
	})
}

// A service may come to a group, go to another one and leave altogether. What it
// holds counts where it belongs.
func TestMembersChange(t *testing.T) {
	p := roomFor(1, "a", "b")
	play(t, p, func(w *town) {
		a := w.come("a")
		w.pass(bootTime)
		b := w.come("b")
		w.waits(b)
		w.join("c", pool.Config{}, usual)
		p := roomFor(1, "b", "c")
		p.Groups["h"] = budget.Group{Children: 1}
		p.Terms["a"] = budget.Terms{Group: "h"}
		w.configure(p)
		w.pass(bootTime)
		w.served(b)
		c := w.come("c")
		w.waits(c)

		delete(p.Terms, "b") // it drains, and holds its room until it is gone
		w.mu.Lock()
		gone := w.services["b"]
		w.mu.Unlock()
		w.configure(p)
		w.pass(time.Second)
		w.waits(c)
		equal(w.t, "used", w.ledger.Snapshot()[0].UsedChildren, 1)
		late := w.come("b")
		w.served(late)
		late.put()
		b.put()
		w.pass(stopTime + bootTime)
		w.served(c)
		late = w.come("b")
		if !errors.Is(late.err, pool.ErrShutdown) {
			w.t.Errorf("error %v", late.err)
		}
		equal(w.t, "starts of b", gone.Starts(), 1)
		a.put()
	})
}

// A service of the same name as one that is about to leave is another one.
func TestSameNameAgain(t *testing.T) {
	play(t, roomFor(1, "a"), func(w *town) {
		old := w.come("a")
		w.pass(bootTime)
		before := w.services["a"]
		w.join("a", pool.Config{}, usual)
		w.configure(roomFor(1, "a"))
		c := w.come("a")
		w.waits(c)
		old.put()
		w.pass(stopTime + bootTime)
		w.served(c)
		before.pool.Shutdown(t.Context())
	})
}

// Needs that are new have their room at once, and are started for the next life.
func TestNeedsChange(t *testing.T) {
	play(t, roomFor(2, "a", "b", "c"), func(w *town) {
		a := w.come("a")
		w.pass(bootTime)
		p := roomFor(2, "a", "b", "c")
		p.Terms["a"] = budget.Terms{Group: "g", Needs: []string{"b"}}
		w.configure(p)
		equal(w.t, "used", w.ledger.Snapshot()[0].UsedChildren, 2)
		c := w.come("c")
		w.waits(c)
		w.awake("a")
		w.services["a"].Last().End(crash)
		a.put()
		again := w.come("a")
		w.waits(c, again)
		w.configure(roomFor(3, "a", "b", "c"))
		w.pass(boots(2))
		w.served(again, c)
	})
}

func TestSnapshot(t *testing.T) {
	p := memory(10, uses{"db": 6, "new": 5})
	p.Groups["g"] = budget.Group{Amounts: uses{"memory": 10}, Children: 3, Wait: waitTime}
	p.Terms["app"] = budget.Terms{Needs: []string{"db"}}
	play(t, p, func(w *town) {
		w.come("app")
		w.pass(boots(2))
		since := time.Now()
		w.come("new")
		w.come("new")
		g := w.ledger.Snapshot()[0]
		equal(w.t, "used", g.Used, uses{"memory": 6})
		equal(w.t, "children", g.UsedChildren, 1)
		equal(w.t, "limits", g.Group, p.Groups["g"])
		equal(w.t, "members", g.Members, []budget.MemberState{
			{Name: "db", Uses: uses{"memory": 6}, Holds: true, For: []string{"app"}},
			{Name: "new", Uses: uses{"memory": 5}},
		})
		equal(w.t, "queue", g.Queue, []budget.Waiting{{Service: "new", Client: "client-2", Clients: 2, Since: since, Wants: []string{"new"}}})
	})
}
