package proxy

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// watched is what a vigil under test has decided.
type watched struct {
	*vigil
	isBusy, mayEnd       atomic.Bool
	rests, rouses, ended atomic.Int32
}

// watch begins a vigil over nothing.
func watch(q Quiet) *watched {
	w := &watched{}
	w.mayEnd.Store(true)
	w.vigil = &vigil{
		quiet: q,
		busy:  func() bool { return w.isBusy.Load() },
		end:   func() bool { w.ended.Add(1); return w.mayEnd.Load() },
		rest:  func() { w.rests.Add(1) },
		rouse: func() { w.rouses.Add(1) },
	}
	w.begin()
	return w
}

// pass lets time pass and what is due happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (w *watched) want(t *testing.T, rests, rouses, ended int32) {
	t.Helper()
	got := [3]int32{w.rests.Load(), w.rouses.Load(), w.ended.Load()}
	if want := [3]int32{rests, rouses, ended}; got != want {
		t.Errorf("rested, roused, ended %v times; want %v", got, want)
	}
}

// Every byte begins the time anew, and it is not over a moment too early.
func TestQuietCountsFromTheLastByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(Quiet{After: time.Minute})
		defer w.over()
		for range 5 {
			pass(time.Minute - 1)
			w.touch()
		}
		pass(time.Minute - 1)
		w.want(t, 0, 0, 0)
		pass(1)
		w.want(t, 1, 0, 0)
	})
}

// A connection at rest costs no timer; its next byte rouses it, once, and from
// then on it is watched again.
func TestQuietUntilTheNextByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(Quiet{After: time.Minute})
		defer w.over()
		pass(24 * time.Hour)
		w.want(t, 1, 0, 0)
		w.touch()
		w.touch()
		w.want(t, 1, 1, 0)
		pass(time.Minute - 1)
		w.want(t, 1, 1, 0)
		pass(1)
		w.want(t, 2, 1, 0)
	})
}

// Bytes that are on their way, to a slow reader say, are not quiet.
func TestQuietWaitsForWhatIsOnItsWay(t *testing.T) {
	for _, q := range []Quiet{{After: time.Minute}, {After: time.Minute, Close: true}} {
		synctest.Test(t, func(t *testing.T) {
			w := watch(q)
			defer w.over()
			w.isBusy.Store(true)
			pass(10 * time.Minute)
			w.want(t, 0, 0, 0)
			w.isBusy.Store(false)
			pass(time.Minute)
			if n := w.rests.Load() + w.ended.Load(); n != 1 {
				t.Errorf("rested or ended %d times", n)
			}
		})
	}
}

func TestQuietEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(Quiet{After: time.Minute, Close: true})
		pass(time.Minute)
		w.want(t, 0, 0, 1)
		w.over()
		pass(time.Hour)
		w.want(t, 0, 0, 1)
	})
}

// A byte that came at the last moment is served, and the watch goes on.
func TestQuietByteAtTheLastMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(Quiet{After: time.Minute, Close: true})
		defer w.over()
		w.mayEnd.Store(false)
		pass(time.Minute)
		w.mayEnd.Store(true)
		w.touch()
		pass(time.Minute - 1)
		w.want(t, 0, 0, 1)
		pass(1)
		w.want(t, 0, 0, 2)
	})
}

// At the very instant at which the time is over either may be first, and in the
// end the connection rests exactly if it was not roused.
func TestQuietByteAtTheVeryInstant(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			w := watch(Quiet{After: time.Minute})
			defer w.over()
			touched := make(chan struct{})
			time.AfterFunc(time.Minute, func() { w.touch(); close(touched) })
			pass(time.Minute)
			<-touched
			if w.rests.Load() != w.rouses.Load() || w.resting.Load() {
				t.Errorf("rested %d times, roused %d times, at rest: %v", w.rests.Load(), w.rouses.Load(), w.resting.Load())
			}
		})
	}
}

func TestNoVigil(*testing.T) {
	var v *vigil
	v.begin()
	v.touch()
	v.over()
}
