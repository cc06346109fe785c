package direct

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// findTime bounds one look for the child's sockets.
	findTime = time.Second
	// findPauseMin and Max are the time between two looks that clients cause
	// who reach our listener. It grows while the looks change nothing: then
	// the child has no socket for such clients.
	findPauseMin = 50 * time.Millisecond
	findPauseMax = 5 * time.Second
	// settleTime is how long the end of a connection waits for further ones.
	settleTime = 10 * time.Millisecond
	// calm is how many connections may begin in a second for their ends to be
	// listened to again after a flood.
	calm = 100
	// drainTick is how often it is looked whether somebody is left.
	drainTick = 20 * time.Millisecond
)

// watch leads clients to one life and keeps it awake while somebody is
// connected whom nobody else sees. What it holds belongs to its one goroutine.
type watch struct {
	path   *Path
	gen    uint64
	find   Finder
	before <-chan struct{} // closed when the watch of the life before has ended; nil = there was none

	ctx   context.Context // ends with the life
	end   context.CancelFunc
	again chan struct{} // somebody has reached our listener
	asks  chan question
	done  chan struct{} // closed when run has ended

	// Used by run only.
	release  func()  // gives the life back; nil unless it is held
	events   *events // nil unless we listen to them
	draining bool
	deaf     bool // we may not listen to them
	missed   bool // too many of them came to listen to each
	unfit    bool // this life cannot be led to
	told     bool // something is wrong
	looked   time.Time
	begun    uint64        // connections led to the child until then
	cost     time.Duration // of the last census
	finding  alarm
	looking  alarm
	pause    time.Duration // after the next look for sockets
	findNext time.Time     // no such look before
}

// question is something that run is to do for somebody who waits for it.
type question struct {
	do     func() bool
	answer chan bool
}

func newWatch(p *Path, gen uint64, find Finder, before <-chan struct{}) *watch {
	w := &watch{
		path: p, gen: gen, find: find, before: before,
		again: make(chan struct{}, 1), asks: make(chan question), done: make(chan struct{}),
		finding: newAlarm(), looking: newAlarm(), pause: findPauseMin,
	}
	w.ctx, w.end = context.WithCancel(context.Background())
	return w
}

// over reports whether the life has ended.
func (w *watch) over() bool { return w.ctx.Err() != nil }

// run watches until end is called.
func (w *watch) run() {
	defer close(w.done)
	defer w.tidy()
	if w.before != nil {
		<-w.before // bounded: it was told to end
	}
	w.path.kernel.clear(0)
	w.begun = w.path.kernel.begun()
	w.findSockets()
	w.listen()
	if w.path.inherited() {
		w.looking.in(0) // it was started for somebody
	}
	for {
		select {
		case <-w.ctx.Done():
			return
		case q := <-w.asks:
			q.answer <- q.do()
		case <-w.again:
			w.finding.in(time.Until(w.findNext))
		case <-w.finding.timer.C:
			w.finding.rang()
			w.findSockets()
			w.listen() // the idle time may be another one
		case <-w.news():
			w.heard()
		case <-w.looking.timer.C:
			w.looking.rang()
			w.look()
		}
	}
}

// tidy gives everything back.
func (w *watch) tidy() {
	w.letGo()
	w.finding.timer.Stop()
	w.looking.timer.Stop()
	w.deafen()
}

// ask has run do something. It returns true when run has ended: then nobody is
// led to the life, and it does not matter who is connected.
func (w *watch) ask(do func() bool) bool {
	q := question{do, make(chan bool, 1)}
	select {
	case w.asks <- q:
	case <-w.done:
		return true
	}
	select {
	case yes := <-q.answer:
		return yes
	case <-w.done: // it may have answered before that
		return true
	}
}

// findSockets leads to the sockets that the child listens on now.
func (w *watch) findSockets() {
	w.findNext = time.Now().Add(w.pause)
	if w.unfit || w.path.inherited() {
		return
	}
	ctx, cancel := context.WithTimeout(w.ctx, findTime)
	defer cancel()
	sockets, err := w.find(ctx)
	changed := false
	if err == nil {
		changed, err = w.leadTo(sockets[:min(len(sockets), slots)])
	}
	if err != nil {
		w.cannotLead(err)
		return
	}
	w.pause = min(2*w.pause, findPauseMax)
	if changed {
		w.pause = findPauseMin
	}
	w.findNext = time.Now().Add(w.pause)
}

// leadTo fills the slots with sockets, and opens the gate if there are any.
func (w *watch) leadTo(sockets []Socket) (changed bool, err error) {
	places := []place{w.path.at}
	for i, s := range sockets {
		fresh, err := w.path.kernel.lead(i, s)
		if err != nil {
			return false, err
		}
		changed = changed || fresh
		places = append(places, placeOfListener(s.Addr))
	}
	w.path.kernel.clear(len(sockets))
	if len(sockets) > 0 {
		w.path.lead(w, places)
	}
	return changed, nil
}

// passing are the errors that a later look may do without: the child has
// changed its mind meanwhile, or something is short for a while.
var passing = []error{
	unix.ESRCH, unix.EBADF, os.ErrClosed, context.Canceled, context.DeadlineExceeded,
	unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS,
}

// cannotLead takes the life off the path, unless that may pass.
func (w *watch) cannotLead(err error) {
	for _, p := range passing {
		if errors.Is(err, p) {
			return
		}
	}
	w.unfit = true
	w.path.leave(w)
	w.path.kernel.clear(0)
	w.path.log.Warn("direct path: clients of this life are carried instead", "life", w.gen, "err", err)
}

// news has a value when a connection has ended.
func (w *watch) news() <-chan struct{} {
	if w.events == nil {
		return nil
	}
	return w.events.news
}

// listen asks for the ends of connections. Without an idle time nobody needs
// to know.
func (w *watch) listen() {
	if w.events != nil || w.deaf || w.unfit || w.path.idle() == 0 {
		return
	}
	e, err := subscribe(portsOf(w.path.clientPlaces()))
	if err != nil {
		if w.path.inherited() && errors.Is(err, unix.EPERM) {
			w.deaf = true // in a sandbox, as plain users may listen: looking has to do, and does
		} else {
			w.complain(err)
		}
		w.looking.in(w.tick()) // that has to do
		return
	}
	w.events = e
	w.looking.in(settleTime) // what ended before was not heard
}

// deafen ends listen.
func (w *watch) deafen() {
	if w.events != nil {
		w.events.close()
		w.events = nil
	}
}

// heard acts on ends of connections. A look takes a tenth of a processor at
// most.
func (w *watch) heard() {
	if w.events.flood.Load() {
		w.missed = true
		w.deafen()
		w.looking.in(w.tick())
		return
	}
	w.looking.in(max(settleTime, 9*w.cost))
}

// look takes a census and holds the life, or lets it go. Somebody who came and
// went since the last look makes the idle time run anew.
func (w *watch) look() {
	n, came := w.count()
	switch {
	case n > 0:
		w.hold()
	case w.release != nil:
		w.letGo()
	case came:
		w.hold()
		w.letGo()
	}
	if w.draining {
		w.looking.in(drainTick)
	} else if w.release != nil || w.events == nil && w.path.idle() > 0 {
		// Some ends are not told: of handshakes that come to nothing, and,
		// until all is acknowledged, of connections that the child has closed.
		w.looking.in(w.tick())
	}
}

// count tells how many are connected, and whether anybody was led to the child
// since the last time. When that cannot be found out, somebody is there.
func (w *watch) count() (n int, came bool) {
	now, begun := time.Now(), w.path.kernel.begun()
	came, w.missed = begun != w.begun || w.missed, false
	if w.events == nil && float64(begun-w.begun) <= calm*now.Sub(w.looked).Seconds() {
		w.listen()
	}
	w.looked, w.begun = now, begun
	if w.events != nil {
		came = came || w.path.inherited() && w.events.fresh.Load() > 0
		w.events.seen()
	}
	n, err := w.path.census(1)
	w.cost = time.Since(now)
	if err != nil {
		w.complain(err)
		return 1, true
	}
	return n, came
}

// tick is how often it is looked without being told to.
func (w *watch) tick() time.Duration {
	return min(max(w.path.idle()/4, drainTick), time.Second)
}

// isAlone answers Path.Retire.
func (w *watch) isAlone() bool {
	if err := w.path.settled(); err != nil {
		w.complain(err)
		w.hold() // as if somebody were there; the next look lets go
		w.looking.in(w.tick())
		return false
	}
	n, came := w.count()
	if n > 0 {
		w.hold()
		w.looking.in(w.tick())
	}
	return n == 0 && !came
}

// drain answers Path.Drain.
func (w *watch) drain() bool {
	w.draining = true
	if err := w.path.settled(); err != nil {
		w.complain(err)
	}
	w.look()
	return true
}

// hold keeps the life awake.
func (w *watch) hold() {
	if w.release == nil {
		if release, ok := w.path.cfg.Hold(w.gen); ok {
			w.release = release
		}
	}
}

// letGo ends hold.
func (w *watch) letGo() {
	if w.release != nil {
		w.release()
		w.release = nil
	}
}

// complain tells, once in a life, of something that should not happen.
func (w *watch) complain(err error) {
	if !w.told {
		w.told = true
		w.path.log.Warn("direct path: cannot see who is connected", "life", w.gen, "err", err)
	}
}

// alarm is a timer that is only ever moved forward.
type alarm struct {
	timer *time.Timer
	due   time.Time // zero = not set
}

func newAlarm() alarm {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return alarm{timer: t}
}

// in sets the alarm for then, unless it is set for earlier.
func (a *alarm) in(d time.Duration) {
	due := time.Now().Add(d)
	if a.due.IsZero() || due.Before(a.due) {
		a.due = due
		a.timer.Reset(d)
	}
}

// rang notes that the alarm has come.
func (a *alarm) rang() { a.due = time.Time{} }
