package budget_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"tiproxy/internal/budget"
	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	bootTime = 2 * time.Second
	stopTime = 10 * time.Second
	waitTime = time.Minute
	longIdle = 24 * time.Hour
)

// usual is a life that takes its time, like a real one.
var usual = pooltest.Script{Ready: bootTime, Stop: stopTime}

// reporter is what *testing.T and *rapid.T have in common.
type reporter interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// town is a ledger with services and their clients. Nothing in it may ever start
// for which there is no room, and nobody with a client be stopped for others.
type town struct {
	t        reporter
	ledger   *budget.Ledger
	services map[string]*service
	clients  []*client

	mu    sync.Mutex
	plan  budget.Plan
	past  []string // events, as "service kind"
	at    map[string]time.Time
	lines bytes.Buffer // of the log
	loose bool         // limits may have been lowered: lives are not counted
}

type service struct {
	*pooltest.Resource
	town   *town
	name   string
	pool   *pool.Pool
	member *budget.Member
	held   map[uint64]int // leases of clients on each life; guarded by the town's mu

	failing, failed func() // if set, called before and after the member is told of a start that failed
}

// play runs a test in a bubble, with a service for each of the terms.
func play(t *testing.T, plan budget.Plan, test func(w *town)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, plan, pool.Config{Idle: longIdle}, usual)
		defer w.end()
		test(w)
	})
}

func newTown(t reporter, plan budget.Plan, cfg pool.Config, script pooltest.Script) *town {
	w := &town{t: t, services: map[string]*service{}, at: map[string]time.Time{}}
	w.ledger = budget.New(slog.New(slog.NewTextHandler(w, nil)))
	for _, name := range slices.Sorted(maps.Keys(plan.Terms)) {
		w.join(name, cfg, script)
	}
	w.configure(plan)
	return w
}

// Write takes the log.
func (w *town) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lines.Write(b)
}

// logged returns how many lines of the log have that message.
func (w *town) logged(msg string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(w.lines.String(), fmt.Sprintf("msg=%q", msg))
}

func (w *town) join(name string, cfg pool.Config, script pooltest.Script) *service {
	s := &service{Resource: pooltest.New(script), town: w, name: name, held: map[uint64]int{}}
	cfg.Vacated, cfg.Notify = w.ledger.Vacated(), s.event
	s.pool = pool.New(s, cfg)
	s.member = w.ledger.Join(name, s.pool)
	w.services[name] = s
	return s
}

func (w *town) configure(plan budget.Plan) {
	w.t.Helper()
	w.mu.Lock()
	w.plan = plan
	w.mu.Unlock()
	if err := w.ledger.Configure(plan); err != nil {
		w.t.Fatalf("configure: %v", err)
	}
}

var kinds = map[pool.EventKind]string{
	pool.EventStarting: "starting", pool.EventOpened: "opened", pool.EventStartFailed: "failed",
	pool.EventShutdown: "shutdown", pool.EventClosed: "closed",
}

func (s *service) event(ev pool.Event) {
	w := s.town
	w.mu.Lock()
	w.past = append(w.past, s.name+" "+kinds[ev.Kind])
	w.at[s.name+" "+kinds[ev.Kind]] = time.Now()
	if ev.Kind == pool.EventShutdown && ev.Reason == pool.ReasonRoom && s.held[ev.Gen] > 0 {
		w.t.Errorf("%s was stopped to make room although it has %d clients", s.name, s.held[ev.Gen])
	}
	w.mu.Unlock()
	failed := ev.Kind == pool.EventStartFailed
	if failed && s.failing != nil {
		s.failing()
	}
	s.member.Event(ev)
	if failed && s.failed != nil {
		s.failed()
	}
}

// Start is that of the resource. It checks that there is room.
func (s *service) Start(ctx context.Context, gen uint64) (pool.Life, error) {
	s.town.checkRoom(s)
	return s.Resource.Start(ctx, gen)
}

func (w *town) checkRoom(starts *service) {
	w.mu.Lock()
	defer w.mu.Unlock()
	group := w.plan.Terms[starts.name].Group
	g, children, used := w.plan.Groups[group], 0, map[string]int64{}
	for name, s := range w.services {
		if t := w.plan.Terms[name]; t.Group == group && (s == starts || s.Starting() || len(s.Alive()) > 0) {
			children++
			for r, n := range t.Uses {
				used[r] += n
			}
		}
	}
	if group == "" || w.loose {
		return
	}
	if g.Children > 0 && children > g.Children {
		w.t.Errorf("%s starts as number %d of %d", starts.name, children, g.Children)
	}
	for r, n := range used {
		if n > g.Amounts[r] {
			w.t.Errorf("with %s, %d of %s are used of %d", starts.name, n, r, g.Amounts[r])
		}
	}
}

// end stops everything and checks that nothing is left.
func (w *town) end() {
	w.t.Helper()
	w.ledger.Close()
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, s := range w.services {
		s.pool.Kill()
		all.Go(func() { s.pool.Shutdown(ctx) })
	}
	all.Wait()
	synctest.Wait()
	for _, c := range w.clients {
		if !c.answered() {
			w.t.Errorf("%s of %s still waits at the end", c.who, c.of.name)
		}
	}
	for _, s := range w.services {
		if err := s.Err(); err != nil {
			w.t.Errorf("%s: rules of pool.Resource were broken: %v", s.name, err)
		}
	}
	for _, g := range w.ledger.Snapshot() {
		if g.UsedChildren != 0 || len(g.Queue) > 0 {
			w.t.Errorf("at the end: %+v", g)
		}
	}
}

// client is one call of Get or Keep.
type client struct {
	of    *service
	who   string
	keeps bool
	leave context.CancelCauseFunc
	done  chan struct{}

	// Valid once done is closed.
	lease *pool.Lease
	err   error
	at    time.Time
}

var errLeft = errors.New("left")

// come lets a client of a service come, and waits until it waits or is served.
func (w *town) come(name string) *client {
	c := w.call(&client{of: w.services[name]})
	synctest.Wait()
	return c
}

func (w *town) keep(name string) *client {
	c := w.call(&client{of: w.services[name], keeps: true})
	synctest.Wait()
	return c
}

func (w *town) call(c *client) *client {
	c.who, c.done = fmt.Sprintf("client-%d", len(w.clients)+1), make(chan struct{})
	ctx, cancel := context.WithCancelCause(context.Background())
	c.leave = cancel
	w.clients = append(w.clients, c)
	go c.get(ctx)
	return c
}

func (c *client) get(ctx context.Context) {
	defer close(c.done)
	m, w := c.of.member, c.of.town
	get := m.Get
	if c.keeps {
		get = m.Keep
	}
	l, ok := (*pool.Lease)(nil), false
	if !c.keeps {
		l, ok = m.TryGet()
	}
	if !ok {
		l, c.err = get(ctx, pool.Caller{Name: c.who})
	}
	if c.lease, c.at = l, time.Now(); c.err == nil {
		w.mu.Lock()
		c.of.held[l.Gen()]++
		w.mu.Unlock()
	}
}

func (c *client) answered() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// put gives the lease back.
func (c *client) put() {
	c.putNow()
	synctest.Wait()
}

func (c *client) putNow() {
	if c.lease == nil {
		return
	}
	l := c.lease
	c.of.town.mu.Lock()
	c.of.held[l.Gen()]--
	c.of.town.mu.Unlock()
	c.lease = nil
	c.of.member.Put(l)
}

// pass lets time pass, and everything happen that is due by then.
func (w *town) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// serve lets a client come and go, and leaves the service idle.
func (w *town) serve(names ...string) {
	w.t.Helper()
	for _, name := range names {
		c := w.come(name)
		w.pass(bootTime)
		w.served(c)
		c.put()
		w.pass(time.Second)
	}
}

func (w *town) served(all ...*client) {
	w.t.Helper()
	for _, c := range all {
		if !c.answered() || c.err != nil {
			w.t.Fatalf("%s of %s: answered %v, error %v; want a lease; past: %v", c.who, c.of.name, c.answered(), c.err, w.past)
		}
	}
}

func (w *town) waits(all ...*client) {
	w.t.Helper()
	for _, c := range all {
		if c.answered() {
			w.t.Fatalf("%s of %s does not wait: error %v", c.who, c.of.name, c.err)
		}
	}
}

// awake checks which services have something that lives.
func (w *town) awake(want ...string) {
	w.t.Helper()
	var got []string
	for _, name := range slices.Sorted(maps.Keys(w.services)) {
		if len(w.services[name].Alive()) > 0 {
			got = append(got, name)
		}
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("awake are %v, want %v", got, want)
	}
}

// past checks that these events have come in that order, with others between.
func (w *town) inOrder(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	i := 0
	for _, ev := range w.past {
		if i < len(want) && ev == want[i] {
			i++
		}
	}
	if i < len(want) {
		w.t.Errorf("%q did not come after %q in %q", want[i], want[:i], w.past)
	}
}

// queue returns who waits for room in the only group.
func (w *town) queue() (names []string) {
	for _, q := range w.ledger.Snapshot()[0].Queue {
		names = append(names, q.Service)
	}
	return names
}

func equal[T any](t reporter, what string, got, want T) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s = %v, want %v", what, g, w)
	}
}

// when returns when an event came last, zero if it never did.
func (w *town) when(ev string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at[ev]
}
