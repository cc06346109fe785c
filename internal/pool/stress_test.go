package pool_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// stress is a pool under many real goroutines on the real clock.
type stress struct {
	*pool.Pool
	t       *testing.T
	res     *pooltest.Resource
	enough  chan struct{} // closed when stressLives lives have begun
	granted atomic.Uint64
	story   []pool.Event // written by one monitor after the other
}

const (
	stressTime    = 2 * time.Second
	stressLives   = 150
	stressClients = 64
)

// No bubble, no order: the race detector, the fake's own account and the
// counters say whether the pool holds under real concurrency.
func TestStress(t *testing.T) {
	s := &stress{t: t, enough: make(chan struct{})}
	s.res = &pooltest.Resource{}
	s.res.SetScripts(func(uint64) pooltest.Script {
		return pooltest.Script{
			Ready: few(), Lives: 10*time.Millisecond + 4*few(), Exit: randomExit0(), Stop: few(),
		}
	})
	s.Pool = pool.New(s.res, pool.Config{
		Idle: time.Millisecond, StartTimeout: time.Minute,
		Notify: s.note,
	})
	var clients sync.WaitGroup
	for range stressClients {
		clients.Go(s.client)
	}
	timer := time.NewTimer(stressTime)
	defer timer.Stop()
	select {
	case <-s.enough:
	case <-timer.C: // a very busy machine, or two failures in a row
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	var stops sync.WaitGroup
	for range 3 {
		stops.Go(func() { s.Shutdown(ctx) })
	}
	stops.Wait()
	clients.Wait()
	s.check()
}

func (s *stress) note(ev pool.Event) {
	s.story = append(s.story, ev)
	if ev.Kind == pool.EventStarting && ev.Gen == stressLives {
		close(s.enough)
	}
}

func few() time.Duration { return rand.N(2 * time.Millisecond) }

func randomExit0() pool.Exit {
	return pool.Exit{Status: exit0.Status, Left: rand.N(2) == 0}
}

// client comes again and again, sometimes in a hurry, until it is told that
// the pool stops.
func (s *stress) client() {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 20*few())
		l, err := s.Get(ctx, pool.Caller{Name: "client"})
		cancel()
		switch {
		case err == nil:
			s.use(l)
		case errors.Is(err, pool.ErrShutdown):
			return
		case !errors.Is(err, context.DeadlineExceeded) && !isStartError(err):
			s.t.Errorf("Get = %v", err)
			return
		}
		if l, ok := s.TryGet(); ok {
			s.use(l)
		}
		s.Snapshot()
	}
}

func isStartError(err error) bool {
	var failure *pool.StartError
	return errors.As(err, &failure)
}

// use holds a lease for a while, or until its life has ended, and gives it back.
func (s *stress) use(l *pool.Lease) {
	s.granted.Add(1)
	if l.Addr() != pooltest.Addr(l.Gen()) {
		s.t.Errorf("lease on life %d has the address %v", l.Gen(), l.Addr())
	}
	timer := time.NewTimer(few())
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.Done():
	}
	s.Put(l)
	if rand.N(4) == 0 {
		runtime.Gosched()
		s.Put(l)
	}
}

func (s *stress) check() {
	s.res.Verify(s.t)
	snap := s.Snapshot()
	equal(s.t, "state", snap.State, pool.Closed)
	equal(s.t, "waiting", snap.Waiting, 0)
	equal(s.t, "granted", snap.Granted, s.granted.Load())
	equal(s.t, "starts", snap.Starts, uint64(s.res.Starts()))
	w := &world{t: s.t}
	for _, ev := range s.story {
		w.events = append(w.events, told{Event: ev})
	}
	w.checkStory(snap)
	s.t.Logf("%d lives, %d leases", snap.Starts, snap.Granted)
}
