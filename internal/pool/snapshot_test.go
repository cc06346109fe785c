package pool_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

func TestStateNames(t *testing.T) {
	for s, want := range map[pool.State]string{
		pool.Closed: "closed", pool.Starting: "starting", pool.Opened: "opened",
		pool.Shutdown: "shutdown", 4: "State(4)",
	} {
		equal(t, "name", s.String(), want)
	}
}

// The numbers of a day with one of everything.
func TestSnapshot(t *testing.T) {
	play(t, pooltest.Script{Ready: bootTime, Stop: stopTime}, func(w *world) {
		born := time.Now()
		check := func(want pool.Snapshot) {
			w.t.Helper()
			got := w.Snapshot()
			var sum time.Duration
			for _, d := range got.InState {
				sum += d
			}
			equal(w.t, "sum of the states", sum, time.Since(born))
			equal(w.t, "has a life", got.Life != nil, got.State != pool.Closed)
			equal(w.t, "somebody woke it", got.Who != "", got.State != pool.Closed)
			got.InState, got.LastError, got.Life, got.Who = [4]time.Duration{}, nil, nil, ""
			if diff := cmp.Diff(want, got); diff != "" {
				w.t.Errorf("snapshot: (-want +got)\n%s", diff)
			}
		}
		check(pool.Snapshot{Since: born})

		w.pass(time.Second)
		c := w.arrive(3)
		started := time.Now()
		check(pool.Snapshot{
			State: pool.Starting, Since: started, Gen: 1, Waiting: 3, Starts: 1, Started: started,
		})
		w.pass(bootTime)
		c[0].Put()
		check(pool.Snapshot{
			State: pool.Opened, Since: started.Add(bootTime), Gen: 1, Connections: 2, Granted: 3, Starts: 1,
			Started: started, Opened: started.Add(bootTime),
		})
		c[1].Put()
		c[2].Put()
		equal(w.t, "idle since", w.Snapshot().IdleSince, time.Now())
		equal(w.t, "idle end", w.Snapshot().IdleEnd, time.Now().Add(idleTime))
		w.pass(idleTime)
		idled := time.Now()
		w.one()
		w.pass(time.Second)
		stops := map[pool.Reason]uint64{pool.ReasonIdle: 1}
		check(pool.Snapshot{
			State: pool.Shutdown, Since: idled, Gen: 1, Waiting: 1, Granted: 3, Starts: 1, Stops: stops,
			Started: started, Opened: started.Add(bootTime),
		})
		w.res.SetScript(pooltest.Script{Ready: 2 * startTimeout, Stop: stopTime})
		w.pass(stopTime - time.Second + startTimeout)
		failed := time.Now()
		stops[pool.ReasonTimeout] = 1
		check(pool.Snapshot{
			State: pool.Shutdown, Since: failed, Gen: 2, Granted: 3, Starts: 2, Failures: 1,
			Stops: stops, HeldUntil: failed, Started: failed.Add(-startTimeout),
		})
		w.pass(stopTime)
		want := [4]time.Duration{time.Second, bootTime + startTimeout, idleTime, 2 * stopTime}
		equal(w.t, "times in states", w.Snapshot().InState, want)
	})
}

// What is remembered of the past: changes of state, and how starts went.
func TestHistory(t *testing.T) {
	play(t, pooltest.Script{Ready: bootTime, Stop: stopTime}, func(w *world) {
		born := time.Now()
		at := func(d time.Duration) time.Time { return born.Add(d) }
		w.one()
		w.pass(bootTime)
		w.exit(exit3)
		w.res.SetScript(doomed)
		w.one()
		w.pass(failTime)
		want := pool.History{
			Changes: []pool.Change{
				{At: at(0), State: pool.Starting, Gen: 1, Who: "client-1"},
				{At: at(bootTime), State: pool.Opened, Gen: 1, Who: "client-1"},
				{At: at(bootTime), State: pool.Closed, Gen: 1, Who: "client-1", Reason: pool.ReasonCrashed},
				{At: at(bootTime), State: pool.Starting, Gen: 2, Who: "client-2"},
				{At: at(bootTime + failTime), State: pool.Closed, Gen: 2, Who: "client-2", Reason: pool.ReasonNotReady},
			},
			Starts: []pool.Start{
				{At: at(0), Gen: 1, Who: "client-1", Took: bootTime},
				{At: at(bootTime), Gen: 2, Who: "client-2", Took: failTime, Err: doomed.SpawnError},
			},
		}
		if diff := cmp.Diff(want, w.History(), cmpopts.EquateErrors()); diff != "" {
			t.Errorf("history: (-want +got)\n%s", diff)
		}
	})
}

// The past is forgotten from its oldest end, and a copy is a copy.
func TestHistoryIsBounded(t *testing.T) {
	play(t, pooltest.Script{}, func(w *world) {
		for range 100 {
			w.one()
			w.exit(exit0)
		}
		h := w.History()
		equal(w.t, "changes", len(h.Changes), 256)
		equal(w.t, "starts", len(h.Starts), 32)
		equal(w.t, "newest start", h.Starts[31].Gen, 100)
		equal(w.t, "oldest start", h.Starts[0].Gen, 69)
		equal(w.t, "newest change", h.Changes[255].Gen, 100)
		equal(w.t, "oldest change", h.Changes[0].Gen, 15)
		h.Starts[31].Gen = 0
		equal(w.t, "newest start", w.History().Starts[31].Gen, 100)
	})
}

// A snapshot is a copy: the pool goes on without it.
func TestSnapshotIsACopy(t *testing.T) {
	play(t, pooltest.Script{}, func(w *world) {
		w.one()
		w.exit(exit0)
		s := w.Snapshot()
		s.Stops[pool.ReasonExited] = 100
		equal(w.t, "stops", w.Snapshot().Stops[pool.ReasonExited], 1)
	})
}

// Every way through a life tells its events, whole, in order and with its times.
func TestEvents(t *testing.T) {
	for _, tt := range ways {
		t.Run(tt.way, func(t *testing.T) {
			play(t, tt.script, func(w *world) {
				born := time.Now()
				w.one()
				tt.test(w)
				w.isGen(pool.Closed, 1)
				var got []pool.EventKind
				for _, ev := range w.told() {
					got = append(got, ev.Kind)
					equal(w.t, "who", ev.Who, "client-1")
					equal(w.t, "uptime", ev.Uptime, ev.at.Sub(born))
				}
				if !slices.Equal(got, tt.want) {
					w.t.Fatalf("events %v, want %v", got, tt.want)
				}
				end := w.event(evClosed)
				equal(w.t, "reason", end.Reason, tt.reason)
				equal(w.t, "exit", end.Exit, tt.exit)
				if slices.Contains(tt.want, evOpened) {
					equal(w.t, "took", end.Took, bootTime)
					equal(w.t, "address", end.Addr.String(), "life-1")
				}
			})
		})
	}
}

const (
	evStarting, evOpened       = pool.EventStarting, pool.EventOpened
	evFailed, evStop, evClosed = pool.EventStartFailed, pool.EventShutdown, pool.EventClosed
)

var ways = []struct {
	way    string
	script pooltest.Script
	test   func(w *world)
	want   []pool.EventKind
	reason pool.Reason
	exit   pool.Exit
}{
	{
		"idle", pooltest.Script{Ready: bootTime, Stop: stopTime},
		func(w *world) { w.pass(bootTime); w.clients[0].Put(); w.pass(idleTime + stopTime) },
		[]pool.EventKind{evStarting, evOpened, evStop, evClosed}, pool.ReasonIdle,
		pool.Exit{Err: pooltest.ErrStopped, Status: pooltest.ErrStopped.Error()},
	},
	{
		"exit", pooltest.Script{Ready: bootTime, Lives: time.Hour, Exit: exit0},
		func(w *world) { w.pass(time.Hour) },
		[]pool.EventKind{evStarting, evOpened, evClosed}, pool.ReasonExited, exit0,
	},
	{
		"crash that leaves something", pooltest.Script{Ready: bootTime, Lives: time.Hour, Exit: exit3L},
		func(w *world) { w.pass(time.Hour) },
		[]pool.EventKind{evStarting, evOpened, evStop, evClosed}, pool.ReasonCrashed, exit3L,
	},
	{
		"spawn fails", doomed, func(w *world) { w.pass(failTime) },
		[]pool.EventKind{evStarting, evFailed, evClosed}, pool.ReasonNotReady, pool.Exit{},
	},
	{
		"ends before ready", slowly, func(w *world) { w.exit(exit3) },
		[]pool.EventKind{evStarting, evFailed, evClosed}, pool.ReasonNotReady, exit3,
	},
	{
		"start timeout", slowly, func(w *world) { w.pass(startTimeout + stopTime) },
		[]pool.EventKind{evStarting, evFailed, evStop, evClosed}, pool.ReasonTimeout,
		pool.Exit{Err: pooltest.ErrStopped, Status: pooltest.ErrStopped.Error()},
	},
	{
		"stopped while starting", pooltest.Script{Ready: bootTime},
		func(w *world) { w.shutdown(context.Background()) },
		[]pool.EventKind{evStarting, evStop, evClosed}, pool.ReasonQuit,
		pool.Exit{Err: pooltest.ErrStopped, Status: pooltest.ErrStopped.Error()},
	},
}
