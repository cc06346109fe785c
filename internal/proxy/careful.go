package proxy

import (
	"context"
	"net"
	"sync"
	"time"

	"tiproxy/internal/pool"
)

// Taken tells whether the program behind a connection that tiproxy made has
// taken it from its backlog. A connection that is still there when the program
// closes its listener, or ends, is reset by the kernel, with every byte that
// was sent on it; no later look can tell that from a reset by the program.
// known is false where it cannot be found out.
type Taken func(nc net.Conn) (taken, known bool)

const (
	// provenBy is how many connections of one life must have been taken
	// before it is believed to go on taking them.
	provenBy = 8
	// lookTime bounds the question whether the child still listens, where it
	// is asked before anything was refused.
	lookTime = 50 * time.Millisecond

	// freshTime is how long the look by which a child was found ready stands for
	// those of the clients who waited for it.
	freshTime = 5 * time.Millisecond

	// forgivenBy is how many must have been taken before a fickle child is
	// believed again: care costs time on each of them.
	forgivenBy = 256

	takenPauseMin = 50 * time.Microsecond
	takenPauseMax = 5 * time.Millisecond
)

// trust is what the server has learnt about its child's way of taking
// connections. A child that has not proved that it takes many, or that has
// refused one or ended with one, is dealt with carefully: it is asked whether
// it still listens, and no byte is moved before it has taken the connection.
type trust struct {
	mu     sync.Mutex
	fickle bool // it has refused, or ended by itself under a client
	gen    uint64
	taken  int // connections of life gen that were taken, as far as was asked
}

// proven reports whether life gen takes connections without further question.
func (t *trust) proven(gen uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.fickle && t.gen == gen && t.taken >= provenBy
}

// took notes that life gen has taken a connection.
func (t *trust) took(gen uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gen != gen {
		t.gen, t.taken = gen, 0
	}
	if t.taken++; t.taken >= forgivenBy {
		t.fickle = false
	}
}

// doubt notes that the child is fickle.
func (t *trust) doubt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fickle, t.taken = true, 0
}

// careful reports whether l's child has to be dealt with carefully.
func (s *Server) careful(l *pool.Lease) bool {
	return s.config().Taken != nil && !s.trust.proven(l.Gen())
}

// stillListens asks, for a moment only, whether l's child listens where it did.
// Otherwise somebody else may have taken the place.
func (c *conn) stillListens(ctx context.Context, l *pool.Lease) (net.Addr, error) {
	one := c.srv.looks.ask(c.srv.held, l)
	select {
	case <-one.over:
		return one.addr, one.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// awaitTaken waits until the child has taken the connection, which is not
// watched meanwhile by anybody else. It returns errEarlyReset when it never
// will, and ctx's cause when ctx ends first.
func (c *conn) awaitTaken(ctx context.Context, l *pool.Lease, up net.Conn) error {
	timer := time.NewTimer(takenPauseMin)
	defer timer.Stop()
	for pause := takenPauseMin; ; pause = min(2*pause, takenPauseMax) {
		taken, known := c.srv.config().Taken(up)
		switch {
		case taken:
			c.srv.trust.took(l.Gen())
			return nil
		case departed(up), over(l):
			return errEarlyReset
		case !known:
			return nil
		}
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}
