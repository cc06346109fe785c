package budget_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"tiproxy/internal/budget"
	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// Random walks over clients, children and time: whatever happens, in whatever
// order, no group is over its budget, nobody with a client is stopped for others,
// and nobody waits while there is room, or could be.
func TestRandomWalks(t *testing.T) {
	n := 5
	if testing.Short() {
		n = 1
	}
	for range n {
		rapid.Check(t, func(rt *rapid.T) { rapid.SyncTest(rt, randomWalk) })
	}
}

const walkers = 6

// randomPlan is a plan of services s0 … s5, of which each may need later ones.
func randomPlan(t *rapid.T) budget.Plan {
	p := budget.Plan{Groups: groups{}, Terms: terms{}}
	for _, g := range []string{"g", "h"} {
		p.Groups[g] = budget.Group{
			Children: rapid.IntRange(0, 3).Draw(t, "children"),
			Amounts:  uses{"m": int64(rapid.IntRange(5, 12).Draw(t, "memory"))},
			Wait:     rapid.SampledFrom([]time.Duration{0, 5 * time.Second, time.Hour}).Draw(t, "wait"),
		}
	}
	for i := walkers - 1; i >= 0; i-- {
		name := fmt.Sprintf("s%d", i)
		s := budget.Terms{Group: rapid.SampledFrom([]string{"g", "g", "h", ""}).Draw(t, "group")}
		if s.Group != "" {
			s.Uses = uses{"m": int64(rapid.IntRange(0, 5).Draw(t, "use"))}
		}
		p.Terms[name] = s
		for j := i + 1; j < walkers; j++ {
			with := s
			switch rapid.IntRange(0, 6).Draw(t, "relation") {
			case 0:
				with.Needs = append(with.Needs, fmt.Sprintf("s%d", j))
			case 1:
				with.Wake = append(with.Wake, fmt.Sprintf("s%d", j))
			}
			p.Terms[name] = with
			if p.Check() == nil {
				s = with
			}
			p.Terms[name] = s
		}
	}
	return p
}

type walk struct{ *town }

func randomWalk(t *rapid.T) {
	plan := randomPlan(t)
	if plan.Check() != nil {
		return
	}
	cfg := pool.Config{
		Idle:         rapid.SampledFrom([]time.Duration{time.Second, longIdle}).Draw(t, "idle"),
		MinUptime:    rapid.SampledFrom([]time.Duration{0, 0, 7 * time.Second}).Draw(t, "minUptime"),
		StartTimeout: 30 * time.Second,
	}
	w := walk{newTown(t, plan, cfg, usual)}
	w.loose = rapid.Bool().Draw(t, "limits change")
	defer w.town.end()
	w.Scripts(t)
	t.Repeat(map[string]func(*rapid.T){
		"":          w.check,
		"come":      w.alone(w.Come),
		"keep":      w.alone(w.Keep),
		"leave":     w.alone(w.Leave),
		"put":       w.alone(w.Put),
		"crash":     w.alone(w.Crash),
		"pass":      w.Pass,
		"scripts":   w.Scripts,
		"configure": w.alone(w.Configure),
		"together":  w.Together,
	})
	w.finish(t)
}

func (w walk) alone(action func(*rapid.T)) func(*rapid.T) {
	return func(t *rapid.T) {
		action(t)
		synctest.Wait()
	}
}

func (w walk) any(t *rapid.T) *service {
	return w.services[fmt.Sprintf("s%d", rapid.IntRange(0, walkers-1).Draw(t, "service"))]
}

func (w walk) Come(t *rapid.T) { w.call(&client{of: w.any(t)}) }
func (w walk) Keep(t *rapid.T) { w.call(&client{of: w.any(t), keeps: true}) }

// one draws a client for which something is true.
func (w walk) one(t *rapid.T, is func(*client) bool) *client {
	var some []*client
	for _, c := range w.clients {
		if is(c) {
			some = append(some, c)
		}
	}
	if len(some) == 0 {
		return nil
	}
	return some[rapid.IntRange(0, len(some)-1).Draw(t, "client")]
}

func (w walk) Leave(t *rapid.T) {
	if c := w.one(t, func(c *client) bool { return !c.answered() }); c != nil {
		c.leave(errLeft)
	}
}

func (w walk) Put(t *rapid.T) {
	if c := w.one(t, func(c *client) bool { return c.answered() && c.lease != nil }); c != nil {
		c.putNow()
	}
}

func (w walk) Crash(t *rapid.T) {
	if l := w.any(t).Last(); l != nil {
		e := crash
		e.Left = rapid.Bool().Draw(t, "left")
		l.End(e)
	}
}

func (w walk) Scripts(t *rapid.T) {
	for range 2 {
		w.any(t).SetScript(pooltest.Script{
			Ready:      rapid.SampledFrom([]time.Duration{0, time.Second, 5 * time.Second}).Draw(t, "ready"),
			Stop:       rapid.SampledFrom([]time.Duration{0, time.Second, stopTime}).Draw(t, "stop"),
			ReadyError: rapid.SampledFrom([]error{nil, nil, nil, errLeft}).Draw(t, "error"),
		})
	}
}

func (w walk) Pass(t *rapid.T) {
	w.pass(rapid.SampledFrom([]time.Duration{1, time.Second, 5 * time.Second, 7 * time.Second, stopTime, time.Minute}).Draw(t, "pass"))
}

// Configure lowers or raises a limit. Lives that there are may then be too many.
func (w walk) Configure(t *rapid.T) {
	if !w.loose {
		return
	}
	p := budget.Plan{Groups: groups{}, Terms: w.plan.Terms}
	for name, g := range w.plan.Groups {
		if rapid.Bool().Draw(t, "changes") {
			g.Children = rapid.IntRange(0, 4).Draw(t, "children")
		}
		p.Groups[name] = g
	}
	if p.Check() != nil {
		return
	}
	w.configure(p)
}

func (w walk) Together(t *rapid.T) {
	actions := []func(*rapid.T){w.Come, w.Come, w.Keep, w.Leave, w.Put, w.Put, w.Crash}
	for range rapid.IntRange(2, 5).Draw(t, "events") {
		actions[rapid.IntRange(0, len(actions)-1).Draw(t, "event")](t)
	}
	if rapid.Bool().Draw(t, "and time passes") {
		w.Pass(t)
	}
	synctest.Wait()
}

// check looks for somebody who waits although there is room for him, or could
// be made. A member that was asked in vain is left alone for a moment, which is
// waited for.
func (w walk) check(t *rapid.T) {
	synctest.Wait()
	if w.stuck() == "" {
		return
	}
	w.pass(time.Second)
	if why := w.stuck(); why != "" {
		t.Fatalf("%s; terms %+v; groups %+v; past %v", why, w.plan.Terms, w.ledger.Snapshot(), w.past)
	}
}

// stuck says why somebody should not wait who does.
func (w walk) stuck() string {
	states := map[string]budget.GroupState{}
	members := map[string]budget.MemberState{}
	first, behind := map[string]budget.Waiting{}, map[string]bool{}
	for _, g := range w.ledger.Snapshot() {
		states[g.Name] = g
		for _, m := range g.Members {
			members[m.Name] = m
		}
		for i, q := range g.Queue {
			first[q.Service] = q
			behind[q.Service] = behind[q.Service] || i > 0
		}
	}
	for name, q := range first {
		if !behind[name] {
			if why := w.stuckFirst(q, states, members); why != "" {
				return why
			}
		}
	}
	return ""
}

// stuckFirst says why somebody should not wait whom nobody is ahead of.
func (w walk) stuckFirst(q budget.Waiting, states map[string]budget.GroupState, members map[string]budget.MemberState) string {
	short := map[string]int64{}
	for name, g := range states {
		if g.Children > 0 {
			short[name] = int64(g.UsedChildren - g.Children)
		} else {
			short[name] = -1000
		}
		short[name+" m"] = g.Used["m"] - g.Amounts["m"]
	}
	count := func(name string, n int64) {
		t := w.plan.Terms[name]
		short[t.Group] += n
		short[t.Group+" m"] += n * t.Uses["m"]
	}
	spared := map[string]bool{}
	w.spare(spared, q.Service)
	for _, name := range q.Wants {
		if members[name].Leaving {
			return ""
		}
		count(name, 1)
	}
	enough := func() bool {
		for _, name := range q.Wants {
			t := w.plan.Terms[name]
			if short[t.Group] > 0 || t.Uses["m"] > 0 && short[t.Group+" m"] > 0 {
				return false
			}
		}
		return true
	}
	if enough() {
		return fmt.Sprintf("%v waits although there is room", q)
	}
	for name, m := range members {
		if m.Leaving {
			return "" // its room is waited for, or others must go first
		}
		u := w.services[name].pool.Use()
		if m.Holds && m.Coming == 0 && len(m.For) == 0 && !spared[name] && !u.Vacant.IsZero() && u.Kept == 0 && !u.Mature.After(time.Now()) {
			count(name, -1)
		}
	}
	if enough() {
		return fmt.Sprintf("%v waits although room could be made", q)
	}
	return ""
}

// spare adds a service and all that it needs.
func (w walk) spare(spared map[string]bool, name string) {
	spared[name] = true
	for _, n := range w.plan.Terms[name].Needs {
		w.spare(spared, n)
	}
}

// finish lets everybody go, and then everybody who waits must be served or told.
func (w walk) finish(t *rapid.T) {
	for i := range walkers {
		w.services[fmt.Sprintf("s%d", i)].SetScript(usual)
	}
	for range 30 * len(w.clients) {
		synctest.Wait()
		waiting := 0
		for _, c := range w.clients {
			if c.answered() {
				c.putNow()
			} else {
				waiting++
			}
		}
		if waiting == 0 {
			break
		}
		w.pass(10 * time.Second)
	}
	for _, c := range w.clients {
		if !c.answered() {
			t.Fatalf("%s of %s waits for ever; groups %+v; past %v", c.who, c.of.name, w.ledger.Snapshot(), w.past)
		}
		var none *budget.NoRoomError
		var start *pool.StartError
		if c.err != nil && !errors.As(c.err, &none) && !errors.As(c.err, &start) && !errors.Is(c.err, errLeft) {
			t.Fatalf("%s of %s: error %v", c.who, c.of.name, c.err)
		}
	}
}
