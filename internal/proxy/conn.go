package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"tiproxy/internal/pool"
)

// conn is one accepted connection. It is owned by the goroutine of serve, then
// by the relay, which hands it back with relayed; Drain, Reset and Wait reach it
// through abort and endIfServed.
type conn struct {
	srv      *Server
	client   net.Conn
	since    time.Time
	header   header // what a trusted peer says
	patience patience
	pending  net.Conn // made by connectFast, not taken from the backlog yet
	up, down int64    // bytes to and from the child

	seated  bool // counts among those who wait
	counted bool // counts among those of its source
	greeted bool
	awoken  bool // the lease is one that was waited for, see freshTime

	// The fields below are guarded by mu.
	mu       sync.Mutex
	lease    *pool.Lease // nil when none is held
	ended    <-chan struct{}
	relay    *relay   // nil unless the client is connected to a child
	upstream net.Conn // the child's side of the relay
	killed   bool
}

// serve connects the client to the child and starts to move the bytes. Its
// goroutine ends then: dialing needs a deep stack, which a connection that
// sits idle afterwards is not to keep.
func (c *conn) serve() {
	upstream, err := c.reach()
	if errors.Is(err, errSilent) || errors.Is(err, errQuiet) {
		c.client.Close()
		c.finish(c.whyNot(err))
		return
	}
	if err != nil {
		reset(c.client)
		c.finish(c.whyNot(err))
		return
	}
	c.leaveSeat()
	if c.awoken && c.srv.config().Waited != nil {
		c.srv.config().Waited(time.Since(c.since))
	}
	r, err := newRelay(c.srv.wires, c.client, upstream, c.release, c.relayed)
	if err != nil {
		c.srv.log.Warn("connection cannot be carried", "client", c.name(), "err", err)
		reset(c.client)
		reset(upstream)
		c.finish(endClosed)
		return
	}
	r.vigil = c.newVigil(r)
	c.mu.Lock()
	c.relay, c.upstream = r, upstream
	killed := c.killed
	c.mu.Unlock()
	if killed {
		r.kill()
	}
	r.start()
}

// reach returns a connection to the child that knows who its client is.
func (c *conn) reach() (net.Conn, error) {
	if err := c.greet(); err != nil {
		return nil, err
	}
	for {
		up, err := c.connect()
		if err != nil {
			return nil, err
		}
		if err = c.introduce(up); err == nil {
			return up, nil
		}
		c.failed(up, err)
	}
}

// takeSeat waits for a place among those who wait for the child.
func (c *conn) takeSeat() error {
	if c.seated {
		return nil
	}
	if !c.srv.seats.take(c.srv.held) {
		return context.Cause(c.srv.held)
	}
	c.seated = true
	return nil
}

// leaveSeat makes room for another one that waits.
func (c *conn) leaveSeat() {
	if c.seated {
		c.seated = false
		c.srv.seats.free()
	}
}

// newVigil returns the watch of a relay for quiet, nil if that is not asked for.
func (c *conn) newVigil(r *relay) *vigil {
	if c.srv.config().Quiet.After == 0 {
		return nil
	}
	return &vigil{quiet: c.srv.config().Quiet, busy: r.busy, end: r.endQuiet, rest: c.rest, rouse: c.rouse}
}

// rest lets the child sleep although the connection stays.
func (c *conn) rest() {
	if l := c.held(); l != nil {
		l.Rest()
	}
}

// rouse keeps the child awake again.
func (c *conn) rouse() {
	if l := c.held(); l != nil {
		l.Rouse()
	}
}

// held returns the lease that the connection lives on, if there is one.
func (c *conn) held() *pool.Lease {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lease
}

// relayed takes the connection back from a relay that has ended. A child that
// has reset the connection before a byte was moved has not taken it: then the
// client is tried again.
func (c *conn) relayed(out outcome) {
	c.mu.Lock()
	c.relay, c.upstream = nil, nil
	c.mu.Unlock()
	c.up += out.up
	c.down += out.down
	if out.retry {
		c.srv.trust.doubt()
		c.patience.refused(errEarlyReset, c.srv.config().Hold)
		c.rouse() // it may have been quiet, and the next relay begins anew
		go c.serve()
		return
	}
	c.finish(out.end)
}

// refuse ends a connection that is not to be served.
func (c *conn) refuse(why end) {
	reset(c.client)
	c.finish(why)
}

// hold remembers the lease that the connection lives on.
func (c *conn) hold(l *pool.Lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lease, c.ended = l, l.Done()
}

// release gives the lease back, if there still is one.
func (c *conn) release() {
	c.mu.Lock()
	l := c.lease
	c.lease = nil
	c.mu.Unlock()
	if l == nil {
		return
	}
	if over(l) && !c.srv.wires.draining.Load() {
		c.srv.trust.doubt() // nobody stops a child that is leased
	}
	c.srv.pool.Put(l)
}

// abort resets both sides now.
func (c *conn) abort() {
	c.mu.Lock()
	c.killed = true
	r := c.relay
	c.mu.Unlock()
	if r != nil {
		r.kill()
	}
}

// abandon resets both sides unless the client's has everything.
func (c *conn) abandon() {
	c.mu.Lock()
	r := c.relay
	c.mu.Unlock()
	if r != nil && !r.delivered() {
		c.abort()
	}
}

// endIfServed ends a connection whose child is gone once the client has
// everything that came from it: nothing more can happen to it.
func (c *conn) endIfServed() {
	c.mu.Lock()
	r, ended := c.relay, c.ended
	c.mu.Unlock()
	if r == nil {
		return
	}
	select {
	case <-ended:
		r.endIfServed()
	default:
	}
}

// whyNot turns the reason why no child took the client into an end.
func (c *conn) whyNot(err error) end {
	switch {
	case errors.Is(err, errClientLeft), errors.Is(err, errSilent):
		return endClientLeft
	case errors.Is(err, errQuiet):
		return endQuiet
	case errors.Is(err, errHeld):
		c.warnHeld()
		return endRefused
	case errors.Is(err, errDrain), errors.Is(err, pool.ErrShutdown):
		return endDrained
	case errors.Is(err, errTurnedAway):
		return endTurnedAway
	default:
		return endStartFailed
	}
}

// warnHeld tells that the child has taken no connection for too long.
func (c *conn) warnHeld() {
	args := []any{"client", c.name(), "held", c.srv.config().Hold, "err", c.patience.last}
	if c.srv.config().Header != 0 {
		args = append(args, "hint", "does the child expect a PROXY header (--proxy-protocol)?")
	}
	c.srv.refused.warn(c.srv.log, "client reset: the child takes no connection", args...)
}

// finish counts the connection as ended and forgets it. Its sockets are closed.
func (c *conn) finish(why end) {
	c.release()
	c.leaveSeat()
	if c.counted {
		c.srv.sources.leave(c.addr())
	}
	c.srv.counts.ended(why, c.up, c.down)
	if c.srv.config().Lasted != nil {
		c.srv.config().Lasted(time.Since(c.since))
	}
	if log := c.srv.log; log.Enabled(context.Background(), slog.LevelDebug) {
		log.Debug("connection", "client", c.name(), "up", c.up, "down", c.down,
			"took", time.Since(c.since), "reason", why.String())
	}
	c.srv.remove(c)
}

// name returns the client's address for people. A client that is gone before
// it is accepted has none, and one on a unix socket seldom has.
func name(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil && a.String() != "" {
		return a.String()
	}
	return "unnamed"
}

// reset closes a connection so that the peer finds it reset, where the socket
// can say so: see SO_LINGER in socket(7). On a unix socket it just ends.
func reset(nc net.Conn) {
	if t, ok := nc.(*net.TCPConn); ok {
		t.SetLinger(0) // fails only on a socket that is closed already
	}
	nc.Close()
}
