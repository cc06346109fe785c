package proxy

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// relay carries bytes between a client and the child, in two directions with a
// goroutine each, until both have come to their end or one peer is gone.
type relay struct {
	w            *wires
	client, up   leg
	toUp, toDown pump
	release      func() // gives the lease back; may be called more than once
	done         func(outcome)
	running      atomic.Int32 // directions that are not over
	vigil        *vigil       // nil unless quiet matters; set before start

	// The fields below are guarded by mu.
	mu      sync.Mutex
	gone    *leg // the first leg whose peer is gone
	ended   int  // directions that have come to their end
	downEnd bool // the direction to the client is one of them
	stop    bool // nothing is left to do
	quiet   bool // because nothing was carried for too long
	killed  bool
}

// newRelay returns a relay between two connections, which it owns from start
// on. release is called once the child's side is over, and perhaps again; done
// is called at the end.
func newRelay(w *wires, client, upstream net.Conn, release func(), done func(outcome)) (*relay, error) {
	r := &relay{w: w, release: release, done: done}
	r.running.Store(2)
	if err := r.client.init(client); err != nil {
		return nil, err
	}
	if err := r.up.init(upstream); err != nil {
		return nil, err
	}
	r.toUp.init(r, &r.client, &r.up)
	r.toDown.init(r, &r.up, &r.client)
	r.toUp.probing = true
	return r, nil
}

// carried is how much was carried so far.
func (r *relay) carried() (up, down uint64) {
	return uint64(r.toUp.moved.Load()), uint64(r.toDown.moved.Load())
}

// start carries the bytes. When both directions are over and the sockets are
// closed, all but the client's if it is to be tried again, done is called.
func (r *relay) start() {
	r.vigil.begin()
	go r.toDown.run()
	go r.toUp.run()
}

// pumpEnded is called by each direction as its last act.
func (r *relay) pumpEnded() {
	if r.running.Add(-1) > 0 {
		return
	}
	r.vigil.over()
	out := outcome{up: r.toUp.moved.Load(), down: r.toDown.moved.Load(), end: r.reason()}
	if out.end == endUpstreamReset && r.untouched() && !r.client.ourEndSent() && r.client.verdict() == nil {
		out.retry = true
		reset(r.up.conn)
		r.client.conn.SetReadDeadline(time.Time{})
	} else {
		r.release()
		r.close(out.end)
	}
	r.done(out)
}

// close closes both sockets: with a reset if one peer has reset its own.
func (r *relay) close(why end) {
	if why != endClosed && why != endQuiet {
		reset(r.client.conn)
		reset(r.up.conn)
		return
	}
	if r.w.draining.Load() {
		r.linger(&r.client)
		r.linger(&r.up)
	}
	r.client.conn.Close()
	r.up.conn.Close()
}

// reason says why the relay has ended.
func (r *relay) reason() end {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.killed:
		return endKilled
	case r.gone == &r.client:
		return endClientReset
	case r.gone == &r.up:
		return endUpstreamReset
	case r.quiet:
		return endQuiet
	default:
		return endClosed
	}
}

// untouched reports whether no byte was moved yet.
func (r *relay) untouched() bool {
	return r.toUp.moved.Load() == 0 && r.toDown.moved.Load() == 0
}

// lose notes that the peer of l is gone. Both directions look up: the one that
// reads from l goes on until it has delivered what had arrived, the other one
// has nowhere to deliver to.
func (r *relay) lose(l *leg) {
	r.mu.Lock()
	if r.gone == nil {
		r.gone = l
		r.wakeLocked()
	}
	r.mu.Unlock()
	// Before the first byte the connection may be tried again, on the same lease.
	if l == &r.up && !r.untouched() {
		r.release()
	}
}

// lost reports whether l was the first leg to lose its peer.
func (r *relay) lost(l *leg) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gone == l
}

// otherEnded reports whether one direction has come to its end.
func (r *relay) otherEnded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended > 0
}

// directionEnded notes that everything up to the end of one direction was
// delivered. It reports whether the other direction had ended before.
func (r *relay) directionEnded(p *pump) bool {
	r.mu.Lock()
	r.ended++
	r.downEnd = r.downEnd || p == &r.toDown
	both := r.ended == 2
	if both && r.gone == nil {
		r.stop = true
		r.wakeLocked()
	}
	r.mu.Unlock()
	return both
}

// woken decides what a direction does whose wait for its source was cut short.
func (r *relay) woken(p *pump) ending {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop || r.killed || r.gone == p.dst {
		return stopped
	}
	p.src.conn.SetReadDeadline(time.Time{})
	return more
}

// alarm makes the wait for p's source end after d, unless there is a reason
// for it to end earlier.
func (r *relay) alarm(p *pump, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stop && !r.killed && r.gone == nil {
		p.src.conn.SetReadDeadline(time.Now().Add(d))
	}
}

// wakeLocked makes both directions look up if they wait for their sources.
func (r *relay) wakeLocked() {
	r.client.wake()
	r.up.wake()
}

// kill resets both sides now.
func (r *relay) kill() {
	r.mu.Lock()
	r.killed = true
	r.mu.Unlock()
	reset(r.client.conn)
	reset(r.up.conn)
}

// delivered reports whether everything that came from the child was handed to
// the client's socket.
func (r *relay) delivered() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.downEnd
}

// endIfServed ends the relay if everything that came from the child has been
// delivered and acknowledged. It is for a child that is gone.
func (r *relay) endIfServed() {
	if !r.delivered() || r.client.unacknowledged() > 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone == nil {
		r.stop = true
		r.wakeLocked()
	}
}

// busy reports whether bytes are on their way: not taken by a peer yet, or not
// yet by us.
func (r *relay) busy() bool {
	return r.client.unacknowledged() > 0 || r.up.unacknowledged() > 0 || r.client.unread() > 0 || r.up.unread() > 0
}

// endQuiet ends the relay because nothing was carried for too long: both peers
// find the end of the stream. It reports whether the relay is over by that or
// anyhow; if a byte has come at the last moment, it goes on.
func (r *relay) endQuiet() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone != nil || r.stop || r.killed {
		return true
	}
	if r.busy() {
		return false
	}
	r.stop, r.quiet = true, true
	r.wakeLocked()
	return true
}

// upstreamMayBeOver gives the lease back if the child has nothing to do with
// the connection any more although bytes of it are still being delivered.
func (r *relay) upstreamMayBeOver() {
	if r.up.ourEndSent() && r.up.peerClosed() {
		r.release()
	}
}

// settle waits until l's peer has acknowledged everything, takes nothing for
// the stall time, or is gone. A reset throws away what is on its way. Unix
// sockets lose nothing: what was written is the peer's.
func (r *relay) settle(l *leg) {
	if l.tcp {
		r.await(l, progress{limit: r.w.limits.stall})
	}
}

// linger waits until l's peer has acknowledged everything, for a bounded time.
func (r *relay) linger(l *leg) {
	if l.tcp {
		r.await(l, progress{limit: r.w.limits.linger, fixed: true})
	}
}

// await waits until l's peer has acknowledged everything, or p is exhausted.
// The kernel has no event for the last acknowledgement, so it is asked, at
// first every millisecond.
func (r *relay) await(l *leg, p progress) {
	if l.unacknowledged() == 0 {
		return
	}
	pause := time.Millisecond
	t := time.NewTimer(pause)
	defer t.Stop()
	for {
		select {
		case <-r.w.abort:
			return
		case <-t.C:
		}
		left := l.unacknowledged()
		if left == 0 || p.stalled(int64(-left)) {
			return
		}
		pause = min(2*pause, 50*time.Millisecond)
		t.Reset(pause)
	}
}

// progress notices that something has stood still for too long.
type progress struct {
	limit time.Duration
	fixed bool // time is counted from the first call, whatever moves
	mark  int64
	since time.Time
}

// stalled takes the newest mark and reports whether the limit is reached.
func (p *progress) stalled(mark int64) bool {
	now := time.Now()
	if p.since.IsZero() || mark != p.mark && !p.fixed {
		p.mark, p.since = mark, now
		return false
	}
	return now.Sub(p.since) >= p.limit
}

// closedHere reports whether err says that we closed the socket ourselves.
func closedHere(err error) bool { return errors.Is(err, net.ErrClosed) }
