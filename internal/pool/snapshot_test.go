package pool_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
			got.InState, got.LastError = [4]time.Duration{}, nil
			if diff := cmp.Diff(want, got); diff != "" {
				w.t.Errorf("snapshot: (-want +got)\n%s", diff)
			}
		}
		check(pool.Snapshot{Since: born})

		w.pass(time.Second)
		c := w.arrive(3)
		started := time.Now()
		check(pool.Snapshot{State: pool.Starting, Since: started, Gen: 1, Waiting: 3, Starts: 1})
		w.pass(bootTime)
		c[0].Put()
		check(pool.Snapshot{
			State: pool.Opened, Since: started.Add(bootTime), Gen: 1, Connections: 2, Granted: 3, Starts: 1,
		})
		c[1].Put()
		c[2].Put()
		w.pass(idleTime)
		idled := time.Now()
		w.one()
		w.pass(time.Second)
		stops := map[pool.Reason]uint64{pool.ReasonIdle: 1}
		check(pool.Snapshot{
			State: pool.Shutdown, Since: idled, Gen: 1, Waiting: 1, Granted: 3, Starts: 1, Stops: stops,
		})
		w.res.SetScript(pooltest.Script{Ready: 2 * startTimeout, Stop: stopTime})
		w.pass(stopTime - time.Second + startTimeout)
		failed := time.Now()
		stops[pool.ReasonTimeout] = 1
		check(pool.Snapshot{
			State: pool.Shutdown, Since: failed, Gen: 2, Granted: 3, Starts: 2, Failures: 1,
			Stops: stops, HeldUntil: failed,
		})
		w.pass(stopTime)
		want := [4]time.Duration{time.Second, bootTime + startTimeout, idleTime, 2 * stopTime}
		equal(w.t, "times in states", w.Snapshot().InState, want)
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
