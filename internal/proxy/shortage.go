package proxy

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"tiproxy/internal/pool"
)

// What tiproxy itself lacks, descriptors, memory or local ports, says nothing
// about the child. Clients wait until it is there again, the child is not
// doubted, and the time that it has to take a connection does not run.

const (
	shortPauseMin = 10 * time.Millisecond  // before a dial is tried again
	shortPauseMax = 500 * time.Millisecond // it doubles up to this

	// headroom is how many descriptors must be free before clients are accepted
	// again, once there was none: those who were accepted need another one each,
	// what starts and watches the child needs some, and new clients would take
	// the last. With a low limit it is less.
	headroom = 32

	// spareDescriptors is what is needed beside connections and pipes, those kept
	// in reserve for the child's next start included; package config leaves it
	// free when it checks the number of connections.
	spareDescriptors = 64

	// roomEvery is how often it is counted at most, however many ask.
	roomEvery = 20 * time.Millisecond
)

// outOfMeans reports that a dial failed for want of what scarce names, or of a
// local port to connect from (connect(2), EADDRNOTAVAIL).
func outOfMeans(err error) bool {
	return err != nil && (scarce(err) || isErrno(err, syscall.EADDRNOTAVAIL))
}

// shortage is a time in which dials fail for want of something. It is told
// with one line when it begins and one when it is over, however often a dial
// fails and succeeds in between.
type shortage struct {
	log *slog.Logger

	mu     sync.Mutex
	since  time.Time // zero unless one is under way
	failed int
	calm   *time.Timer // runs from a success on; nil otherwise
}

// begin notes a failure.
func (s *shortage) begin(err error) {
	s.mu.Lock()
	fresh := s.since.IsZero()
	if fresh {
		s.since, s.failed = time.Now(), 0
	}
	if s.calm != nil {
		s.calm.Stop()
		s.calm = nil
	}
	s.failed++
	s.mu.Unlock()
	if fresh {
		s.log.Warn("dial waits", "err", err, "hint", shortHint(err))
	}
}

// over notes a success. The shortage has ended when no failure follows soon.
func (s *shortage) over() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.since.IsZero() && s.calm == nil {
		s.calm = time.AfterFunc(acceptCalm, s.end)
	}
}

// end tells that the shortage is over, if there is one.
func (s *shortage) end() {
	s.mu.Lock()
	since, failed := s.since, s.failed
	s.since = time.Time{}
	if s.calm != nil {
		s.calm.Stop()
		s.calm = nil
	}
	s.mu.Unlock()
	if !since.IsZero() {
		s.log.Info("dial goes on", "after", time.Since(since), "refused", failed)
	}
}

// shortHint says what to raise.
func shortHint(err error) string {
	switch {
	case isErrno(err, syscall.EADDRNOTAVAIL):
		return "all local ports to the child are in use or in TIME_WAIT: widen net.ipv4.ip_local_port_range, set net.ipv4.tcp_tw_reuse to 1, or use a unix: --dest"
	case isErrno(err, syscall.EMFILE):
		return "the limit of open files is reached (ulimit -n)"
	case isErrno(err, syscall.ENFILE):
		return "the limit of open files of the whole system is reached (fs.file-max)"
	}
	return "the kernel is out of memory"
}

// dialChild dials within limit. It takes the last descriptor if need be: for every
// client that was accepted there is meant to be one, see heedLimit.
func (s *Server) dialChild(ctx context.Context, addr net.Addr, limit time.Duration) (net.Conn, error) {
	nc, err := dial(ctx, addr, limit)
	switch {
	case err == nil:
		s.short.over()
	case outOfMeans(err):
		s.short.begin(err)
		s.wires.trim()
	}
	return nc, err
}

// awaitRoom waits after accept has failed with err, until there is room for
// clients or none is left to make room. It ends early when the server drains.
func (s *Server) awaitRoom(e *episode, err error) {
	s.wires.trim()
	d := e.begin(err)
	s.pause(d)
	for !s.room.enough() {
		if s.Connections() == 0 || s.isDraining() {
			return
		}
		d = min(2*d, acceptPauseMax)
		s.pause(d)
	}
	e.over()
}

// heedLimit waits while the limit of descriptors leaves no room for one more
// connection, if it was lowered since the number of connections was checked
// against it (prlimit(2)). Clients that were accepted nevertheless would take the
// descriptors with which others could be served.
func (s *Server) heedLimit(e *episode) {
	waited := false
	for limit := descriptorLimit(); limit < s.limit && s.Connections() >= mostConnections(limit) && !s.isDraining(); limit = descriptorLimit() {
		waited = true
		s.pause(e.begin(syscall.EMFILE))
	}
	if waited {
		e.over()
	}
}

// mostConnections is how many connections find both of their descriptors under a
// limit, whatever else is open; less under a low limit, and one at least.
func mostConnections(limit int) int {
	return max((limit-spareDescriptors)/2, limit/4, 1)
}

// postpone notes that a dial failed for want of what we need ourselves.
func (p *patience) postpone() {
	p.short = true
	p.pause = min(max(2*p.pause, shortPauseMin), shortPauseMax)
	p.next = time.Now().Add(p.pause)
}

// blame notes why a life was of no use to the client: it has refused it, or
// we could not even ask.
func (c *conn) blame(err error) {
	if outOfMeans(err) {
		c.patience.postpone()
		return
	}
	c.patience.refused(err, c.srv.config().Hold)
}

// awaitMeans waits until the postponed dial may be tried again. An error means
// that l's life has ended meanwhile, or that ctx ended.
func (c *conn) awaitMeans(ctx context.Context, l *pool.Lease) error {
	pause := time.NewTimer(time.Until(c.patience.next))
	defer pause.Stop()
	c.patience.short = false
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-l.Done():
		c.patience.forget()
		return errEnded
	case <-pause.C:
		return nil
	}
}
