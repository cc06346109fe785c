package pool_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
)

// A life is vacant from the moment when nobody but holders of Keep uses it, and
// whoever listens is told, however it came to that.
func TestUse(t *testing.T) {
	vacated := make(chan struct{}, 1)
	cfg := pool.Config{Idle: time.Hour, MinUptime: youth, Vacated: vacated}
	playWith(t, cfg, slowly, func(w *world) {
		check := func(what string, told bool, want pool.Use) {
			w.t.Helper()
			w.settle()
			select {
			case <-vacated:
				equal(w.t, what+": told", true, told)
			default:
				equal(w.t, what+": told", false, told)
			}
			if diff := cmp.Diff(want, w.Use()); diff != "" {
				w.t.Errorf("%s: (-want +got)\n%s", what, diff)
			}
		}
		check("closed", false, pool.Use{})
		c := w.toStarting(2)
		check("starting", false, pool.Use{Gen: 1})
		opened := time.Now()
		w.ready()
		check("opened", false, pool.Use{Gen: 1})
		c[0].Put()
		check("in use", false, pool.Use{Gen: 1})
		w.pass(time.Second)
		c[1].Put()
		vacant := pool.Use{Gen: 1, Vacant: time.Now(), Mature: opened.Add(youth)}
		check("vacant", true, vacant)
		w.pass(time.Second)
		k := w.keep()
		w.leased(1, k)
		kept := vacant
		kept.Kept = 1
		check("kept", false, kept)
		l, _ := w.TryGet()
		check("kept and in use", false, pool.Use{Gen: 1, Kept: 1})
		l.Rest()
		kept.Vacant = time.Now()
		check("kept, and somebody rests", true, kept)
		l.Rouse()
		check("roused", false, pool.Use{Gen: 1, Kept: 1})
		w.pass(time.Second)
		w.Put(l)
		kept.Vacant = time.Now()
		check("kept, again", true, kept)
		k.Put()
		vacant.Vacant = time.Now()
		check("no more", true, vacant)
		h, _ := w.Beside(1)
		check("hidden", false, pool.Use{Gen: 1})
		w.Put(h)
		check("not hidden", true, vacant)
		w.pass(youth)
		w.TryStop(pool.ReasonRoom)
		check("shutdown", false, pool.Use{Gen: 1})
		w.pass(stopTime)
		check("closed again", false, pool.Use{Gen: 1})
	})
}

// A life that nobody waits for any more when it is ready is vacant from then on.
func TestUse_FromTheBeginning(t *testing.T) {
	vacated := make(chan struct{}, 1)
	playWith(t, pool.Config{Vacated: vacated}, pooltest.Script{Ready: bootTime}, func(w *world) {
		w.one().leave(nil)
		w.pass(bootTime)
		equal(w.t, "vacant", w.Use(), pool.Use{Gen: 1, Vacant: time.Now(), Mature: time.Now()})
		equal(w.t, "told", len(vacated), 1)
	})
}
