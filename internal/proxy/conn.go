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
	patience patience
	pending  net.Conn // made by connectFast, not taken from the backlog yet
	up, down int64    // bytes to and from the child

	// The fields below are guarded by mu.
	mu     sync.Mutex
	lease  *pool.Lease // nil when none is held
	ended  <-chan struct{}
	relay  *relay // nil unless the client is connected to a child
	killed bool
}

// serve connects the client to the child and starts to move the bytes. Its
// goroutine ends then: dialing needs a deep stack, which a connection that
// sits idle afterwards is not to keep.
func (c *conn) serve() {
	upstream, err := c.connect()
	if err != nil {
		reset(c.client)
		c.finish(c.whyNot(err))
		return
	}
	r, err := newRelay(c.srv.wires, c.client, upstream, c.release, c.relayed)
	if err != nil {
		c.srv.log.Warn("connection cannot be carried", "client", name(c.client), "err", err)
		reset(c.client)
		reset(upstream)
		c.finish(endClosed)
		return
	}
	c.mu.Lock()
	c.relay = r
	killed := c.killed
	c.mu.Unlock()
	if killed {
		r.kill()
	}
	r.start()
}

// relayed takes the connection back from a relay that has ended. A child that
// has reset the connection before a byte was moved has not taken it: then the
// client is tried again.
func (c *conn) relayed(out outcome) {
	c.mu.Lock()
	c.relay = nil
	c.mu.Unlock()
	c.up += out.up
	c.down += out.down
	if out.retry {
		c.srv.trust.doubt()
		c.patience.refused(errEarlyReset, c.srv.cfg.Hold)
		go c.serve()
		return
	}
	c.finish(out.end)
}

// refuse ends a connection that came too late to be served.
func (c *conn) refuse() {
	reset(c.client)
	c.finish(endDrained)
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
	case errors.Is(err, errClientLeft):
		return endClientLeft
	case errors.Is(err, errHeld):
		c.srv.refused.warn(c.srv.log, "client reset: the child takes no connection",
			"client", name(c.client), "held", c.srv.cfg.Hold, "err", c.patience.last)
		return endRefused
	case errors.Is(err, errDrain), errors.Is(err, pool.ErrShutdown):
		return endDrained
	default:
		return endStartFailed
	}
}

// finish counts the connection as ended and forgets it. Its sockets are closed.
func (c *conn) finish(why end) {
	c.release()
	c.srv.counts.ended(why, c.up, c.down)
	if log := c.srv.log; log.Enabled(context.Background(), slog.LevelDebug) {
		log.Debug("connection", "client", name(c.client), "up", c.up, "down", c.down,
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
