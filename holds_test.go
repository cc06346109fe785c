package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// heldPool is a pool and the holds on it, in a bubble.
type heldPool struct {
	holds
	pool *pool.Pool
	res  *pooltest.Resource

	mu   sync.Mutex
	said []string // why holds were over
}

const heldIdle = time.Minute

// inBubble runs a test of holds on a child that behaves as the script says.
func inBubble(t *testing.T, script func(gen uint64) pooltest.Script, test func(t *testing.T, h *heldPool)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &heldPool{res: &pooltest.Resource{}}
		h.res.SetScripts(script)
		h.pool = pool.New(h.res, pool.Config{Idle: heldIdle})
		h.keep = func(ctx context.Context) (*pool.Lease, error) { return h.pool.Keep(ctx, pool.Caller{Name: "test"}) }
		h.put, h.told = h.pool.Put, h.say
		test(t, h)
		h.close()
		h.pool.Shutdown(t.Context())
		if err := h.hold(t.Context(), time.Hour); !errors.Is(err, pool.ErrShutdown) {
			t.Errorf("a hold after close: %v", err)
		}
	})
}

func (h *heldPool) say(until time.Time, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if until.IsZero() {
		h.said = append(h.said, why)
	}
}

// is checks the pool's state, and why holds were over so far.
func (h *heldPool) is(t *testing.T, want pool.State, over ...string) {
	t.Helper()
	synctest.Wait()
	if got := h.pool.Snapshot().State; got != want {
		t.Errorf("the pool is %v, want %v", got, want)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.said, over) {
		t.Errorf("holds were over: %q, want %q", h.said, over)
	}
}

func always(s pooltest.Script) func(uint64) pooltest.Script {
	return func(uint64) pooltest.Script { return s }
}

func TestHolds_KeepTheChildAwakeForTheirTime(t *testing.T) {
	t.Parallel()
	inBubble(t, always(pooltest.Script{Ready: time.Second}), func(t *testing.T, h *heldPool) {
		must(t, h.hold(t.Context(), time.Hour))
		h.is(t, pool.Opened)
		if got := time.Until(h.until()); got != time.Hour-time.Second {
			t.Errorf("held for %v more", got)
		}
		time.Sleep(time.Hour - 2*time.Second)
		h.is(t, pool.Opened)
		time.Sleep(time.Second + heldIdle/2)
		h.is(t, pool.Opened, "over")
		if !h.until().IsZero() {
			t.Error("held after its time")
		}
		time.Sleep(heldIdle)
		h.is(t, pool.Closed, "over")
	})
}

func TestHolds_StartTheChildAgain(t *testing.T) {
	t.Parallel()
	script := func(gen uint64) pooltest.Script {
		switch gen {
		case 1:
			return pooltest.Script{Lives: 20 * time.Second, Exit: pool.Exit{Err: pooltest.ErrEnded}}
		case 2, 3:
			return pooltest.Script{SpawnError: pooltest.ErrEnded}
		}
		return pooltest.Script{}
	}
	inBubble(t, script, func(t *testing.T, h *heldPool) {
		must(t, h.hold(t.Context(), time.Hour))
		time.Sleep(time.Minute)
		h.is(t, pool.Opened)
		if n := h.res.Starts(); n != 4 {
			t.Errorf("%d starts, want 4", n)
		}
	})
}

func TestHolds_AreNoneWhereNothingStarts(t *testing.T) {
	t.Parallel()
	inBubble(t, always(pooltest.Script{SpawnError: pooltest.ErrEnded}), func(t *testing.T, h *heldPool) {
		if err := h.hold(t.Context(), time.Hour); !errors.Is(err, pooltest.ErrEnded) {
			t.Errorf("got %v", err)
		}
		h.is(t, pool.Closed, "the child could not be started")
		time.Sleep(time.Hour)
		if n := h.res.Starts(); n != 1 {
			t.Errorf("%d starts", n)
		}
	})
}

func TestHolds_ANewerOneCounts(t *testing.T) {
	t.Parallel()
	inBubble(t, always(pooltest.Script{}), func(t *testing.T, h *heldPool) {
		must(t, h.hold(t.Context(), time.Hour))
		must(t, h.hold(t.Context(), time.Minute))
		h.is(t, pool.Opened)
		if n := h.pool.Snapshot().Held; n != 1 {
			t.Errorf("%d leases", n)
		}
		time.Sleep(2*time.Minute + time.Second)
		h.is(t, pool.Closed, "over")
		must(t, h.hold(t.Context(), time.Minute))
		must(t, h.hold(t.Context(), time.Hour))
		time.Sleep(5 * time.Minute)
		h.is(t, pool.Opened, "over")
	})
}

func TestHolds_AreReleased(t *testing.T) {
	t.Parallel()
	inBubble(t, always(pooltest.Script{Ready: 10 * time.Second}), func(t *testing.T, h *heldPool) {
		h.release("nothing there")
		brief, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.hold(brief, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who did not wait: %v", err)
		}
		if h.until().IsZero() {
			t.Error("the hold has gone with who asked for it")
		}
		time.Sleep(time.Minute)
		h.is(t, pool.Opened)
		h.release("asked for")
		h.is(t, pool.Opened, "asked for")
		time.Sleep(heldIdle)
		h.is(t, pool.Closed, "asked for")

		// Also while the child is being started.
		go func() { _ = h.hold(t.Context(), time.Hour) }()
		h.is(t, pool.Starting, "asked for")
		h.release("again")
		time.Sleep(10*time.Second + heldIdle)
		h.is(t, pool.Closed, "asked for", "again")
	})
}
