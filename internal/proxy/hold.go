package proxy

import (
	"context"
	"errors"
	"net"
	"time"

	"tiproxy/internal/pool"
)

const (
	// fastDial bounds the dial of a client that is not watched yet. A child
	// that is ready answers within the round trip; one whose backlog is full
	// makes the kernel repeat its SYN after a second.
	fastDial = time.Second
	// slowDial bounds one dial of a held client, so that the end of the child
	// on another machine, which refuses nothing any more, is noticed.
	slowDial = 10 * time.Second

	refusedPauseMin = time.Millisecond
	refusedPauseMax = 250 * time.Millisecond
)

var (
	errEarlyReset = errors.New("connection reset before a byte was moved")
	errNotTaken   = errors.New("connection not taken from the backlog yet")
	errNoUse      = errors.New("this life of the child takes no connection")
	errEnded      = errors.New("the child has ended")
)

// patience is how long, and how often, a client is tried with a child that
// lives but takes no connection.
type patience struct {
	last  error         // the newest refusal; nil if there was none
	until time.Time     // when the client is given up; zero: never
	next  time.Time     // no dial before
	pause time.Duration // between the last dial and next
	short bool          // it was not the child that made the last dial fail
}

// refused notes that a dial failed. Readiness and refusal may contradict each
// other, so dials are spread out on their own.
func (p *patience) refused(err error, hold time.Duration) {
	now := time.Now()
	if p.last == nil && hold > 0 {
		p.until = now.Add(hold)
	}
	p.last = err
	p.pause = min(max(2*p.pause, refusedPauseMin), refusedPauseMax)
	p.next = now.Add(p.pause)
}

// forget lets the next life be dialed at once. The time it all may take stays.
func (p *patience) forget() { p.pause, p.next, p.short = 0, time.Time{}, false }

// connect returns a connection to a child that takes one, and holds the client
// until there is one. The lease is held then.
func (c *conn) connect() (net.Conn, error) {
	// Nothing is connected for a client that was gone before it was accepted: the
	// child would see a connection on which nobody says anything.
	if departed(c.client) {
		return nil, errClientLeft
	}
	if c.patience.last == nil {
		if up := c.connectFast(); up != nil {
			return up, nil
		}
	}
	defer c.dropPending()
	if departed(c.client) {
		return nil, errClientLeft
	}
	ctx, cancel := context.WithCancelCause(c.srv.held)
	defer cancel(nil)
	w, err := watchDeparture(c.client, cancel)
	if err != nil {
		return nil, err
	}
	defer w.stop()
	return c.connectHeld(ctx, cancel)
}

// connectFast is connect for the usual case: the child is ready and takes the
// connection. It returns nil in every other one.
func (c *conn) connectFast() net.Conn {
	l, ok := c.srv.pool.TryGet()
	if !ok {
		return nil
	}
	c.hold(l)
	careful := c.srv.careful(l)
	addr, err := l.Addr(), error(nil)
	if careful {
		addr, err = c.stillListens(c.srv.held, l)
	}
	var up net.Conn
	if err == nil {
		up, err = c.srv.dialChild(c.srv.held, addr, fastDial)
	}
	if err == nil && careful {
		err = c.takenSoon(l, up)
	}
	switch {
	case err == nil && !over(l):
		return up
	case errors.Is(err, errNotTaken):
		c.pending = up
	default:
		c.failed(up, err)
	}
	return nil
}

// takenSoon is awaitTaken for a client that is not watched, so that it may not
// take long. The error is errNotTaken when it does.
func (c *conn) takenSoon(l *pool.Lease, up net.Conn) error {
	ctx, cancel := context.WithTimeoutCause(c.srv.held, lookTime, errNotTaken)
	defer cancel()
	return c.awaitTaken(ctx, l, up)
}

// connectHeld is connect for a client that is watched. ctx ends with the
// reason when it is no use to go on.
func (c *conn) connectHeld(ctx context.Context, cancel context.CancelCauseFunc) (net.Conn, error) {
	var limit *time.Timer
	for {
		if c.patience.last != nil && limit == nil && !c.patience.until.IsZero() {
			t := hourglass{cancel}
			limit = time.AfterFunc(time.Until(c.patience.until), t.out)
			defer limit.Stop()
		}
		l, err := c.leased(ctx)
		if err != nil {
			return nil, err
		}
		up, err := c.dialHeld(ctx, l)
		if err == nil && c.srv.careful(l) {
			err = c.awaitTaken(ctx, l, up)
		}
		if cause := context.Cause(ctx); cause != nil && err != nil {
			closeIfAny(up)
			return nil, cause
		}
		switch {
		case errors.Is(err, errNoUse): // noted already
		case err == nil && !over(l):
			return up, nil
		default:
			c.failed(up, err)
		}
	}
}

// closeIfAny closes a connection that is no use, if there is one.
func closeIfAny(nc net.Conn) {
	if nc != nil {
		nc.Close()
	}
}

// dropPending closes a connection that was made but came to nothing.
func (c *conn) dropPending() {
	closeIfAny(c.pending)
	c.pending = nil
}

// dialHeld returns a connection to l's child that is not known to be taken. It
// returns errNoUse, and has given the lease back, when the life does not take
// connections, or ctx has ended.
func (c *conn) dialHeld(ctx context.Context, l *pool.Lease) (net.Conn, error) {
	if up := c.pending; up != nil {
		c.pending = nil
		return up, nil
	}
	addr, err := c.takesConnections(ctx, l)
	if err != nil {
		c.release()
		return nil, errNoUse
	}
	return c.srv.dialChild(ctx, addr, slowDial)
}

// hourglass ends the wait of a client that was held for too long.
type hourglass struct{ cancel context.CancelCauseFunc }

func (h hourglass) out() { h.cancel(errHeld) }

// leased returns the connection's lease, and waits for one if it has none.
func (c *conn) leased(ctx context.Context) (*pool.Lease, error) {
	l := c.held()
	if l != nil && !over(l) {
		return l, nil
	}
	if l != nil {
		c.patience.forget()
		c.dropPending()
		c.release()
	}
	since := time.Now()
	l, err := c.srv.pool.Get(ctx, c.caller())
	if err != nil {
		return nil, err
	}
	c.awoken = l.Opened().After(since)
	c.hold(l)
	return l, nil
}

// caller is the client as the pool sees it.
func (c *conn) caller() pool.Caller {
	return pool.Caller{Name: c.name(), Source: wakeSource(c.addr()), Held: c.wakeHeld}
}

// wakeHeld tells that the client waits because its network has started the
// child too often.
func (c *conn) wakeHeld(until time.Time) {
	c.srv.wakesHeld.about(c.srv.log, c.addr(), "wake held back", "network", wakeSource(c.addr()), "for", time.Until(until))
}

// takesConnections returns where l's life is to be dialed. If it has refused
// this client before, that is when the life is ready again, and not too soon
// after the last try. An error means that the life is no use, or that ctx ended.
func (c *conn) takesConnections(ctx context.Context, l *pool.Lease) (net.Addr, error) {
	if c.patience.short {
		if err := c.awaitMeans(ctx, l); err != nil {
			return nil, err
		}
		return c.firstLook(ctx, l)
	}
	if c.patience.next.IsZero() {
		return c.firstLook(ctx, l)
	}
	addr, notReady := l.Ready(ctx)
	if notReady != nil && ctx.Err() == nil {
		c.patience.refused(notReady, c.srv.config().Hold)
	}
	pause := time.NewTimer(time.Until(c.patience.next))
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.Done():
		c.patience.forget()
		return nil, errEnded
	case <-pause.C:
		return addr, notReady
	}
}

// firstLook is takesConnections for a life that has not refused this client.
func (c *conn) firstLook(ctx context.Context, l *pool.Lease) (net.Addr, error) {
	if !c.srv.careful(l) || c.awoken && time.Since(l.Opened()) < freshTime {
		return l.Addr(), nil
	}
	addr, err := c.stillListens(ctx, l)
	if err != nil {
		c.blame(err)
	}
	return addr, err
}

// failed puts away a connection that is no use and notes why, unless the life
// is over: then the next one has refused nothing yet.
func (c *conn) failed(up net.Conn, err error) {
	closeIfAny(up)
	if err != nil {
		if !outOfMeans(err) {
			c.srv.trust.doubt()
		}
		c.blame(err)
	}
	l := c.held()
	if over(l) {
		c.patience.forget()
		c.release()
	}
}

// over reports whether the lease's child has ended.
func over(l *pool.Lease) bool {
	select {
	case <-l.Done():
		return true
	default:
		return false
	}
}

// dialer dials every child; it has no state.
var dialer = newDialer()

// dial connects to addr, within limit. Every failure means the same: nobody
// takes a connection there now. Nagle is off, which is what package net does
// unasked, and keepalive on.
func dial(ctx context.Context, addr net.Addr, limit time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return dialer.DialContext(ctx, addr.Network(), addr.String())
}
