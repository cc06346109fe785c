package budget_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"tiproxy/internal/budget"
	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// Many clients of many services at the same time, on the real clock: each is
// served, unless he leaves, and there is never too little room.
func TestStress(t *testing.T) {
	p := budget.Plan{
		Groups: groups{"g": {Children: 3, Amounts: uses{"m": 10}}, "h": {Children: 1}},
		Terms: terms{
			"a": {Group: "g", Uses: uses{"m": 3}, Needs: []string{"b"}},
			"b": {Group: "g", Uses: uses{"m": 4}},
			"c": {Group: "g", Uses: uses{"m": 9}, Wake: []string{"x"}},
			"d": {Group: "g", Uses: uses{"m": 1}, Needs: []string{"x"}},
			"x": {Group: "h"},
			"y": {Group: "h"},
		},
	}
	w := newTown(t, p, pool.Config{Idle: time.Millisecond}, pooltest.Script{Stop: 100 * time.Microsecond})
	names := []string{"a", "b", "c", "d", "x", "y"}
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for i := range 24 {
		s := w.services[names[i%len(names)]]
		all.Go(func() { s.hammer(ctx, rounds, i) })
	}
	all.Wait()
	for _, s := range w.services {
		s.pool.Shutdown(context.Background())
		if err := s.Err(); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
	for _, g := range w.ledger.Snapshot() {
		if g.UsedChildren != 0 || len(g.Queue) > 0 {
			t.Errorf("at the end: %+v", g)
		}
	}
}

// hammer is a client who comes again and again, and at times has no patience.
func (s *service) hammer(ctx context.Context, rounds, seed int) {
	dice := rand.New(rand.NewPCG(1, uint64(seed)))
	for range rounds {
		patience := time.Hour
		if dice.IntN(4) == 0 {
			patience = time.Duration(dice.IntN(1000)) * time.Microsecond
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		l, ok := s.member.TryGet()
		var err error
		if !ok {
			l, err = s.member.Get(ctx, pool.Caller{Name: fmt.Sprint(seed)})
		}
		switch {
		case err == nil:
			s.member.Put(l)
		case ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded):
			s.town.t.Errorf("%s: %v", s.name, err)
		}
		cancel()
	}
	if ctx.Err() != nil {
		s.town.t.Errorf("%s: not done in time", s.name)
	}
}
