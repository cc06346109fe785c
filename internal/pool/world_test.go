package pool_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The times of a world, all different, so that no two can be mixed up.
const (
	idleTime     = 60 * time.Second
	startTimeout = 30 * time.Second
	stopTime     = 10 * time.Second
	bootTime     = 2 * time.Second
	youth        = 100 * time.Second
	ratePer      = 45 * time.Second
)

var (
	exit0  = pool.Exit{Status: "exit status 0"}
	exit3  = pool.Exit{Status: "exit status 3", Err: errors.New("exit status 3")}
	exit0L = pool.Exit{Status: "exit status 0", Left: true}
	exit3L = pool.Exit{Status: "exit status 3", Err: exit3.Err, Left: true}
)

// slowly is a life that does everything only when told, or in stopTime.
var slowly = pooltest.Script{Ready: pooltest.Manual, Stop: stopTime}

// reporter is what *testing.T and *rapid.T have in common.
type reporter interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// told is an event and when it was told.
type told struct {
	pool.Event
	at time.Time
}

// world is a pool in a synctest bubble, with its resource and its clients.
type world struct {
	t   reporter
	res *pooltest.Resource
	*pool.Pool
	clients []*client

	mu     sync.Mutex
	events []told
}

// play runs a test in a bubble, with a pool whose lives behave as the script
// says, and looks afterwards that nothing is left and nothing went wrong.
func play(t *testing.T, s pooltest.Script, test func(w *world)) {
	t.Helper()
	playWith(t, pool.Config{Idle: idleTime, StartTimeout: startTimeout}, s, test)
}

func playWith(t *testing.T, cfg pool.Config, s pooltest.Script, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, cfg, s)
		defer w.end() // also after a failure: a bubble must not be left by its clients
		test(w)
	})
}

func newWorld(t reporter, cfg pool.Config, s pooltest.Script) *world {
	w := &world{t: t, res: pooltest.New(s)}
	w.use(w.res, cfg)
	return w
}

// use makes the pool of the world, of a resource that may be more than its own.
func (w *world) use(res pool.Resource, cfg pool.Config) {
	notify := cfg.Notify
	cfg.Notify = func(ev pool.Event) {
		w.mu.Lock()
		w.events = append(w.events, told{ev, time.Now()})
		w.mu.Unlock()
		if notify != nil {
			notify(ev)
		}
	}
	w.Pool = pool.New(res, cfg)
}

// end stops the pool by force and checks what must be true after any test.
func (w *world) end() {
	w.t.Helper()
	w.Kill()
	w.Shutdown(ended())
	w.settle()
	w.is(pool.Closed)
	for _, c := range w.clients {
		c.Put()
		if !c.answered() {
			w.t.Errorf("client %s still waits after Shutdown", c.who)
		}
	}
	if err := w.res.Err(); err != nil {
		w.t.Errorf("rules of pool.Resource were broken: %v", err)
	}
	if n := len(w.res.Alive()); n > 0 {
		w.t.Errorf("%d lives left after Shutdown", n)
	}
	if idle, holdBack := w.Armed(); idle || holdBack {
		w.t.Errorf("timers armed after Shutdown: idle %v, hold-back %v", idle, holdBack)
	}
	w.checkStory(w.Snapshot())
}

// checkStory checks that the events tell every life, whole and in order.
func (w *world) checkStory(s pool.Snapshot) {
	w.t.Helper()
	var gen uint64
	next := []pool.EventKind{pool.EventStarting}
	for _, ev := range w.told() {
		if ev.Kind == pool.EventStarting {
			gen++
		}
		ok := false
		for _, k := range next {
			ok = ok || ev.Kind == k
		}
		if !ok || ev.Gen != gen {
			w.t.Errorf("event %d of life %d, want one of %v of life %d", ev.Kind, ev.Gen, next, gen)
		}
		next = follows[ev.Kind]
	}
	if gen != s.Gen || s.Gen != s.Starts || next[0] != pool.EventStarting {
		w.t.Errorf("events tell %d lives, snapshot %d of %d starts; next %v", gen, s.Gen, s.Starts, next)
	}
}

// follows says which events may come after one.
var follows = map[pool.EventKind][]pool.EventKind{
	pool.EventStarting:    {pool.EventOpened, pool.EventStartFailed, pool.EventShutdown, pool.EventClosed},
	pool.EventOpened:      {pool.EventShutdown, pool.EventClosed},
	pool.EventStartFailed: {pool.EventShutdown, pool.EventClosed},
	pool.EventShutdown:    {pool.EventClosed},
	pool.EventClosed:      {pool.EventStarting},
}

func (w *world) told() []told {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]told(nil), w.events...)
}

// event returns the event of that kind of the newest life that told one.
func (w *world) event(kind pool.EventKind) told {
	w.t.Helper()
	all := w.told()
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Kind == kind {
			return all[i]
		}
	}
	w.t.Fatalf("no event %d among %v", kind, all)
	return told{}
}

// settle waits until nothing moves without time or the test.
func (w *world) settle() { synctest.Wait() }

// pass lets time pass, and everything happen that is due by then.
func (w *world) pass(d time.Duration) {
	<-time.After(d)
	w.settle()
}

// life returns the newest life.
func (w *world) life() *pooltest.Life {
	w.t.Helper()
	w.settle()
	l := w.res.Last()
	if l == nil {
		w.t.Fatalf("no life")
	}
	return l
}

func (w *world) ready()            { w.life().SetReady(true); w.settle() }
func (w *world) exit(e pool.Exit)  { w.life().End(e); w.settle() }
func (w *world) is(s pool.State)   { w.t.Helper(); w.isGen(s, w.Snapshot().Gen) }
func (w *world) starts(want int)   { w.t.Helper(); equal(w.t, "starts", w.res.Starts(), want) }
func (w *world) failures(n uint64) { w.t.Helper(); equal(w.t, "failures", w.Snapshot().Failures, n) }

// isGen checks the pool's state and that of the world behind it.
func (w *world) isGen(want pool.State, gen uint64) {
	w.t.Helper()
	w.settle()
	s := w.Snapshot()
	if s.State != want || s.Gen != gen {
		w.t.Errorf("%v of life %d, want %v of life %d", s.State, s.Gen, want, gen)
	}
	if alive := len(w.res.Alive()); s.State == pool.Closed && alive > 0 {
		w.t.Errorf("closed with %d lives", alive)
	}
}

func equal[T comparable](t reporter, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

// ended returns a context that has ended.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// shutdown calls Shutdown and returns a channel that is closed when it returns.
func (w *world) shutdown(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Shutdown(ctx)
	}()
	w.settle()
	return done
}

func (w *world) returned(done <-chan struct{}, want bool) {
	w.t.Helper()
	w.settle()
	select {
	case <-done:
		equal(w.t, "has returned", true, want)
	default:
		equal(w.t, "has returned", false, want)
	}
}

// client is one call of Get or Keep.
type client struct {
	w      *world
	who    string
	source string
	keeps  bool // by Keep
	leave  context.CancelCauseFunc
	done   chan struct{}

	// Valid once done is closed.
	lease *pool.Lease
	err   error
	at    time.Time
}

// come lets a client come, and does not wait for anything.
func (w *world) come() *client {
	return w.comeWith(context.Background())
}

func (w *world) comeWith(ctx context.Context) *client { return w.comeFrom(ctx, "") }

// comeFrom lets a client of some source come.
func (w *world) comeFrom(ctx context.Context, source string) *client {
	return w.admit(ctx, &client{source: source})
}

// keep lets somebody come who wants it awake.
func (w *world) keep() *client { return w.admit(context.Background(), &client{keeps: true}) }

func (w *world) admit(ctx context.Context, c *client) *client {
	c.w, c.who, c.done = w, fmt.Sprintf("client-%d", len(w.clients)+1), make(chan struct{})
	ctx, c.leave = context.WithCancelCause(ctx)
	w.clients = append(w.clients, c)
	go c.get(ctx)
	return c
}

// arrive lets clients come and returns when they wait or were answered.
func (w *world) arrive(n int) []*client {
	first := len(w.clients)
	for range n {
		w.come()
	}
	w.settle()
	return w.clients[first:]
}

// one lets one client come.
func (w *world) one() *client { return w.arrive(1)[0] }

func (c *client) get(ctx context.Context) {
	defer close(c.done)
	get := c.w.Get
	if c.keeps {
		get = c.w.Keep
	}
	c.lease, c.err = get(ctx, pool.Caller{Name: c.who, Source: c.source})
	c.at = time.Now()
}

func (c *client) answered() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// Put gives the lease back, if there is one.
func (c *client) Put() {
	if c.answered() && c.lease != nil {
		c.w.Put(c.lease)
	}
}

// waits fails the test unless all clients wait.
func (w *world) waits(clients ...*client) {
	w.t.Helper()
	synctest.Wait()
	for _, c := range clients {
		if c.answered() {
			w.t.Fatalf("%s does not wait: lease %v, error %v", c.who, c.lease, c.err)
		}
	}
}

// leased fails the test unless all clients were given a lease on that life.
func (w *world) leased(gen uint64, clients ...*client) {
	w.t.Helper()
	synctest.Wait()
	for _, c := range clients {
		if !c.answered() || c.err != nil || c.lease.Gen() != gen {
			w.t.Fatalf("%s: answered %v, error %v, lease %v; want a lease on life %d", c.who, c.answered(), c.err, c.lease, gen)
		}
		equal(w.t, "address", c.lease.Addr().String(), pooltest.Addr(gen).String())
	}
}

// toldFailed fails the test unless all clients were told at that moment that
// the start of that life has failed.
func (w *world) toldFailed(gen uint64, at time.Time, clients ...*client) {
	w.t.Helper()
	synctest.Wait()
	for _, c := range clients {
		var failure *pool.StartError
		if !c.answered() || !errors.As(c.err, &failure) || failure.Gen != gen || c.lease != nil {
			w.t.Fatalf("%s: answered %v, error %v; want the failure of start %d", c.who, c.answered(), c.err, gen)
		}
		equal(w.t, "told at", c.at, at)
	}
}

// toldErr fails the test unless all clients were told that error.
func (w *world) toldErr(want error, clients ...*client) {
	w.t.Helper()
	synctest.Wait()
	for _, c := range clients {
		if !c.answered() || !errors.Is(c.err, want) || c.lease != nil {
			w.t.Fatalf("%s: answered %v, error %v; want %v", c.who, c.answered(), c.err, want)
		}
	}
}

func isDone(c *client) bool {
	select {
	case <-c.lease.Done():
		return true
	default:
		return false
	}
}
