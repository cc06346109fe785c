package pool_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// The events of a script. One byte tells the event, and each of its numbers is
// another byte, taken modulo what there is to choose from: every string of
// bytes is a script, and a small change of it is a small change of the story.
// A new event goes to the end: the corpus is made of these numbers.
const (
	letArrive   = iota // how many: so many clients come
	letHurried         // moment: a client comes who leaves by then
	letLeave           // which: a client who waits leaves
	letPut             // which: a lease is given back, also once too often
	letTry             // a client comes who takes a lease if there is one
	letReady           // the newest life becomes ready
	letNever           // the newest life will never be ready
	letExit            // how: the newest life's process ends
	letLives           // five numbers: how lives are that start from now on
	letPass            // moment: time passes
	letTogether        // how many: the next events happen at the same moment
	letStop            // moment: Shutdown is called, with so long to drain
	letKill            // Kill is called
	letRest            // which: a lease does not count
	letRouse           // which: it does
	letComeFrom        // whence: a client of one of two sources comes
	letSlipIn          // a client comes whom the pool does not see, if there is a way
	letSlipOut         // one of those leaves
	letHold            // somebody comes who wants it awake
	letDrain           // moment: Stop is called, with so long to drain
	letRoom            // TryStop is called
	letReload          // three numbers: Configure is called
	letReplace         // SetResource is called
	events
)

// longestScript bounds what one run of the fuzzer takes.
const longestScript = 200

// Whatever happens, in whatever order, the invariants hold after every step:
// the random walks again, led by what reaches new code.
func FuzzScript(f *testing.F) {
	for _, s := range stories {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) { playScript(t, script) })
	})
}

// stories are scripts that get somewhere.
var stories = [][]byte{
	{0, letArrive, 0, letReady, letPut, 0, letPass, 13},                                                  // a client, and asleep again
	{2, letArrive, 2, letExit, 1, letPass, 4, letArrive, 0, letPass, 4},                                  // failed starts, and held back
	{0, letArrive, 0, letReady, letTogether, 0, letPut, 0, letArrive, 0, letPass, 12},                    // one goes, one comes
	{0, letArrive, 0, letReady, letPut, 0, letTogether, 0, letPass, 11, letArrive, 0},                    // one comes when the idle time is over
	{0, letLives, 0, 0, 1, 0, 0, 1, letArrive, 1, letReady, letStop, 5, letPut, 0, letPass, 7},           // a stop that drains
	{0, letLives, 0, 1, 1, 0, 0, 1, letHurried, 2, letHurried, 5, letPass, 9, letReady, letTry, letKill}, // nobody is left when it is ready
	{1, letLives, 0, 0, 0, 1, 3, 0, letArrive, 0, letPass, 4, letExit, 2, letArrive, 1, letPass, 7},      // something of the tree is left
	{0, letArrive, 1, letReady, letRest, 0, letRest, 1, letPass, 12, letRouse, 0, letPass, 13},           // quiet ones let it sleep
	{3, letComeFrom, 0, letReady, letPut, 0, letPass, 1, letComeFrom, 0, letComeFrom, 1, letPass, 4},     // one source has woken it too often
	{0, letArrive, 0, letReady, letSlipIn, letPut, 0, letPass, 13, letSlipOut, letPass, 13},              // a hidden one keeps it awake
	{0, letArrive, 1, letReady, letDrain, 12, letArrive, 0, letPut, 0, letPut, 1, letPass, 7, letReady},  // a stop that drains, and one who waits for the next
	{0, letArrive, 0, letReplace, letDrain, 5, letPass, 7, letReady, letPut, 0, letRoom, letArrive, 0},   // a start given up, and room made
	{0, letHold, letReady, letRoom, letPut, 0, letReload, 1, 0, 0, letPass, 3, letArrive, 0},             // kept, and an idle time that is over at once
	{0, letArrive, 0, letReady, letSlipIn, letPut, 0, letRoom, letPass, 17, letDrain, 4, letPass, 4},     // a hidden one, asked for twice
	{0, letArrive, 0, letNever, letPass, 4, letLives, 6, letArrive, 0, letLeave, 0, letPass, 13},         // it will never be ready
}

// tape is the rest of a script.
type tape struct{ rest []byte }

// number takes the next number, below n.
func (t *tape) number(n int) int {
	if len(t.rest) == 0 {
		return 0
	}
	b := t.rest[0]
	t.rest = t.rest[1:]
	return int(b) % n
}

// oneOf takes a number and returns the value that it stands for.
func oneOf[T any](t *tape, values []T) T { return values[t.number(len(values))] }

func playScript(t *testing.T, script []byte) {
	s := &tape{script[:min(len(script), longestScript)]}
	w := newWalk(t, oneOf(s, []pool.Config{
		{Idle: idleTime, StartTimeout: startTimeout},
		{Idle: 5 * time.Second, StartTimeout: startTimeout},
		{Idle: 1, StartTimeout: time.Second},
		{Idle: 1, StartTimeout: time.Second, WakeRate: pool.Rate{N: 1, Per: ratePer}},
		{Idle: 5 * time.Second, StartTimeout: startTimeout, MinUptime: youth, WakeRate: pool.Rate{N: 2, Per: ratePer}},
	}), &hideout{takes: graceTime, holds: true})
	defer w.finish()
	w.res.SetScript(slowly)
	for len(s.rest) > 0 && !t.Failed() {
		together := 1
		ev := s.number(events)
		if ev == letTogether {
			together = 2 + s.number(3)
			ev = s.number(events)
		}
		for ; together > 0; together-- {
			w.happens(ev, s)
			if together > 1 {
				ev = s.number(events)
			}
		}
		w.check(nil)
	}
	if !t.Failed() {
		w.checkEnd()
	}
}

// happens lets one event happen, without waiting for what follows from it.
func (w *walk) happens(event int, s *tape) {
	switch event {
	case letArrive:
		for range 1 + s.number(3) {
			w.arrives(context.Background(), "")
		}
	case letComeFrom:
		w.arrives(context.Background(), oneOf(s, []string{"10.0.0.0/24", "10.0.1.0/24"}))
	case letHurried:
		ctx, cancel := context.WithTimeout(context.Background(), oneOf(s, w.moments()))
		w.cancels = append(w.cancels, cancel)
		w.arrives(ctx, "")
	case letLeave:
		if waiting := w.waiting(); len(waiting) > 0 {
			oneOf(s, waiting).leave(errGone)
		}
	case letPut, letRest, letRouse:
		if holders := w.leaseholders(); len(holders) > 0 {
			c := oneOf(s, holders)
			map[int]func(*client){letPut: w.put, letRest: w.rest, letRouse: w.rouse}[event](c)
		}
	case letTry:
		w.Try(nil)
	case letSlipIn:
		if !w.hide.slipIn() {
			w.arrives(context.Background(), "")
		}
	case letSlipOut:
		w.hide.slipOut()
	case letPass:
		<-time.After(oneOf(s, w.moments()))
	case letHold:
		w.holds(context.Background())
	case letDrain:
		w.drainLife(oneOf(s, w.moments()))
	case letRoom:
		w.makeRoom()
	case letReload:
		w.reload(pool.Config{Idle: oneOf(s, idles), MinUptime: oneOf(s, minUptimes), WakeRate: oneOf(s, rates)})
	case letReplace:
		w.Replace(nil)
	case letStop:
		ctx, cancel := context.WithTimeout(context.Background(), oneOf(s, w.moments()))
		w.cancels = append(w.cancels, cancel)
		w.quit = true
		go w.shutdownReturns(ctx)
	case letKill:
		w.Kill()
	default:
		w.childDoes(event, s)
	}
}

// childDoes lets an event of the child happen.
func (w *walk) childDoes(event int, s *tape) {
	switch event {
	case letReady:
		w.BecomeReady(nil)
	case letNever:
		w.NeverReady(nil)
	case letExit:
		if l := w.res.Last(); l != nil {
			l.End(oneOf(s, exits))
		}
	case letLives:
		spawnFails, readyFails := error(nil), error(nil)
		switch s.number(8) {
		case 6:
			spawnFails = errors.New("no such program")
		case 7:
			readyFails = errors.New("somebody else listens")
		}
		w.res.SetScript(pooltest.Script{
			SpawnError: spawnFails,
			ReadyError: readyFails,
			Spawn:      time.Duration(s.number(2)) * time.Second,
			Ready:      oneOf(s, []time.Duration{0, pooltest.Manual, bootTime, w.cfg.StartTimeout}),
			Lives:      oneOf(s, []time.Duration{0, bootTime, stopTime + bootTime, w.cfg.Idle}),
			Exit:       oneOf(s, exits),
			Stop:       time.Duration(s.number(2)) * stopTime,
		})
	}
}

// arrives lets a client come, who must not be told of what was before him.
func (w *walk) arrives(ctx context.Context, source string) {
	s := w.Snapshot()
	w.least[w.comeFrom(ctx, source)] = awaitedIn(s)
}
