//go:build linux

package soak

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The long form lasts SOAK_TIME; without that, each scenario has a short round.
// SOAK_SEED repeats the plan of an earlier run. SOAK_ONLY leaves out scenarios
// of other names in the long form.
const (
	timeVariable = "SOAK_TIME"
	seedVariable = "SOAK_SEED"
	onlyVariable = "SOAK_ONLY"
	pathVariable = "SOAK_PATH" // --path of the tiproxy that is soaked
)

// longTime is how long the soak is asked to last; 0: the short form.
func longTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv(timeVariable)
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		t.Fatalf("%s=%q is no duration above 0: write for example 5m", timeVariable, text)
	}
	return d
}

// chosenSeed is SOAK_SEED, or a random one.
func chosenSeed(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv(seedVariable)
	if text == "" {
		return rand.Uint64N(1_000_000_000)
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q is no number from 0 on: %v", seedVariable, text, err)
	}
	return seed
}

// lane is a sequence of rounds in networks of its own.
type lane struct {
	form      form
	seed      uint64
	dir       string
	near, far *space // tiproxy and its child are near
	link      *link
	calm      calmness
	book      *book
}

// calmness is what a tiproxy holds that has served one client and is asleep.
type calmness struct{ descriptors, goroutines int }

// book is what all lanes write into.
type book struct {
	mu      sync.Mutex
	rows    map[string]*tally
	reports []string
}

func (b *book) enter(r *round, row tally) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rows[r.scenario.name] == nil {
		b.rows[r.scenario.name] = &tally{}
	}
	b.rows[r.scenario.name].add(&row)
	if !row.lossless() {
		b.reports = append(b.reports, r.report())
	}
}

func newLane(t *testing.T, f form, seed uint64, b *book) *lane {
	t.Helper()
	l := &lane{form: f, seed: seed, book: b, dir: t.TempDir()}
	l.near, l.far, l.link = joined(t, seed, drizzle)
	l.calm = l.measureCalm(t)
	return l
}

// client is one that is about to come.
func (l *lane) client(v visit, patience time.Duration, redis bool) *client {
	c := &client{outcome: outcome{visit: v}, space: l.near, address: at("127.0.0.1"), patience: patience, redis: redis}
	if v.far {
		c.space, c.address = l.far, at(nearIP)
	}
	return c
}

// measureCalm looks at a tiproxy to which nothing has happened.
func (l *lane) measureCalm(t *testing.T) calmness {
	t.Helper()
	p, err := launch(l.near, fmt.Sprintf("%d.calm", l.seed), childLine(manners{Listen: destAddr}))
	if err != nil {
		t.Fatal(err)
	}
	if o := l.client(visit{asks: []ask{{Up: 10, Down: 10}}}, bound, false).come(); o.ending != served {
		t.Fatalf("the first client of all: %v\n%s", o, p.log.tail(3000))
	}
	if left := p.asleep(bound); len(left) > 0 {
		t.Fatalf("tiproxy does not fall asleep: %v", left)
	}
	c := calmness{descriptors: descriptors(p.pid())}
	p.end(syscall.SIGQUIT, bound)
	p.read.Wait()
	if c.goroutines = goroutines(p.log.text()); c.goroutines == 0 {
		t.Fatalf("SIGQUIT shows no goroutines:\n%s", p.log.tail(3000))
	}
	return c
}

// prepareLink makes the link what a scenario wants.
func (l *lane) prepareLink(s scenario) error {
	l.link.set(s.weather)
	l.link.cut.Store(false)
	if s.rate == "" {
		return l.link.widen()
	}
	return l.link.narrow(s.rate)
}

// play plays a scenario and enters what came of it.
func (l *lane) play(t *testing.T, s scenario, number int) {
	t.Helper()
	r := newRound(l, s, number)
	row := r.play()
	l.book.enter(r, row)
	t.Logf("%s: %d of %d clients served, %d faults", r.name, row.served, row.clients, row.faults)
}

// TestSoak lets clients come to tiproxies to which everything happens, and
// counts what is lost: nothing.
func TestSoak(t *testing.T) {
	t.Parallel()
	length, seed := longTime(t), chosenSeed(t)
	fmt.Printf("soak: %s=%d repeats this plan\n", seedVariable, seed)
	b := &book{rows: map[string]*tally{}}
	if length > 0 {
		soakLong(t, b, seed, length)
	} else {
		soakShort(t, b, seed)
	}
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	text, total := table(names, b.rows)
	fmt.Printf("\n%s\n", text)
	for i, report := range b.reports {
		if i < 3 {
			t.Log(report)
		}
	}
	if !total.lossless() || t.Failed() {
		t.Errorf("something was lost in %d rounds: %s=%d repeats the plan", len(b.reports), seedVariable, seed)
	}
	if total.served == 0 {
		t.Error("no client at all was served")
	}
}

// soakLong plays all scenarios again and again, in an order of the seed's, on
// two lanes.
func soakLong(t *testing.T, b *book, seed uint64, length time.Duration) {
	var playing sync.WaitGroup
	defer playing.Wait()
	began := now()
	for i := range uint64(2) {
		l := newLane(t, longForm, seed+i, b)
		playing.Go(func() { l.playFor(t, began, length) })
	}
}

// playFor gives every scenario its turn, and goes on until length is over.
func (l *lane) playFor(t *testing.T, began moment, length time.Duration) {
	t.Helper()
	order := rand.New(rand.NewPCG(l.seed, 0))
	chosen := slices.DeleteFunc(slices.Clone(scenarios), func(s scenario) bool { return !strings.Contains(s.name, os.Getenv(onlyVariable)) })
	for number := 1; len(chosen) > 0; {
		for _, i := range order.Perm(len(chosen)) {
			l.play(t, chosen[i], number)
			if number++; began.since() > length && number > len(chosen) {
				return
			}
		}
	}
}

// soakShort plays each scenario once, by plans that are always the same, and
// a few by one that is not, all at once.
func soakShort(t *testing.T, b *book, seed uint64) {
	const fixed = 4
	shares := make([][]scenario, fixed+1)
	for i, s := range scenarios {
		shares[i%fixed] = append(shares[i%fixed], s)
	}
	pick := rand.New(rand.NewPCG(seed, 0)).Perm(len(scenarios) - 1)
	shares[fixed] = []scenario{scenarios[len(scenarios)-1], scenarios[pick[0]], scenarios[pick[1]]}
	var playing sync.WaitGroup
	defer playing.Wait()
	for i, share := range shares {
		laneSeed := uint64(i + 1)
		if i == fixed {
			laneSeed = seed
		}
		l := newLane(t, shortForm, laneSeed, b)
		playing.Go(func() {
			for number, s := range share {
				l.play(t, s, number+1)
			}
		})
	}
}
