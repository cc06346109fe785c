package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = 500 * time.Millisecond
	acceptCalm     = time.Second // without a failure, until an episode counts as over
)

// Serve accepts connections from l until Drain, Reset or Unlisten, and then returns nil.
// It returns an error when l cannot accept any more. It closes l. Several
// listeners may be served at once; those of TCP are to come of ListenConfig.
//
// At the limit of descriptors or memory it pauses, at most half a second at a
// time: a listener that is readable and cannot be accepted from would spin.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	if !s.track(l) {
		return nil
	}
	shortage := episode{log: s.log, level: slog.LevelWarn, addr: l.Addr()}
	defer shortage.end()
	full := episode{log: s.log, level: slog.LevelInfo, addr: l.Addr()}
	defer full.end()
	for {
		if !s.makeRoom(&full) {
			return nil
		}
		s.heedLimit(&shortage)
		nc, err := l.Accept()
		if err == nil {
			shortage.over()
			s.start(nc)
			continue
		}
		s.slots.free()
		switch {
		case !s.listens(l):
			return nil
		case scarce(err):
			s.awaitRoom(&shortage, err)
		case !fleeting(err):
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
	}
}

// start serves an accepted connection in a goroutine of its own.
func (s *Server) start(nc net.Conn) {
	cfg := s.config()
	if cfg.Arrived != nil {
		cfg.Arrived()
	}
	c := &conn{srv: s, client: nc, since: time.Now()}
	if !s.add(c) {
		c.refuse(endDrained)
		return
	}
	if !c.trusted() {
		if why := c.admit(); why != "" {
			c.complain(why)
			c.refuse(endTurnedAway)
			return
		}
		if !cfg.WakeOnData && c.takeSeat() != nil {
			c.refuse(endDrained)
			return
		}
	}
	go c.serve()
}

// track remembers a listener for Drain. It reports false after Drain.
func (s *Server) track(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

// listens reports whether l is one that is served.
func (s *Server) listens(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, there := s.listeners[l]
	return there
}

// isDraining reports whether Drain or Reset was called.
func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// makeRoom waits for a place for one more connection, and until there is one
// among those who wait. It reports false when the server drains.
func (s *Server) makeRoom(full *episode) bool {
	if s.isDraining() {
		return false
	}
	if !s.slots.tryTake() {
		full.begin(fmt.Errorf("--max-connections (%d) is reached", s.slots.most()))
		if !s.slots.take(s.held) {
			return false
		}
	}
	if !s.seats.tryTake() {
		full.begin(fmt.Errorf("--max-waiting (%d) clients wait for the child", s.seats.most()))
		if !s.seats.take(s.held) {
			s.slots.free()
			return false
		}
	}
	s.seats.free() // for whoever is accepted now, unless he has to say something first
	full.over()
	return true
}

// pause waits for d, or until the server drains.
func (s *Server) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.held.Done():
	}
}

// scarce reports that an accept or a dial failed for want of descriptors,
// memory or ports, which comes back by itself.
func scarce(err error) bool {
	return isErrno(err, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM)
}

// fleeting reports that accept failed because of the one connection that it
// was to return. accept(2) wants such errors of the network treated like EAGAIN.
func fleeting(err error) bool {
	return isErrno(err, syscall.ECONNABORTED, syscall.EINTR, syscall.EAGAIN, syscall.EPERM,
		syscall.EPROTO, syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN,
		syscall.EHOSTUNREACH, syscall.ENOPROTOOPT, syscall.EOPNOTSUPP)
}

// isErrno reports whether err wraps one of the given errors.
func isErrno(err error, wanted ...syscall.Errno) bool {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return false
	}
	for _, want := range wanted {
		if e == want {
			return true
		}
	}
	return false
}

// episode is a time in which nothing is accepted for want of something. It is
// told with one line when it begins and one when it is over, however often
// accept fails and succeeds in between.
type episode struct {
	log   *slog.Logger
	level slog.Level // of the line when it begins
	addr  net.Addr

	mu     sync.Mutex
	since  time.Time     // zero unless an episode is under way
	next   time.Duration // the pause after the next failure
	failed int
	calm   *time.Timer // runs from a success on; nil otherwise
}

// begin notes a failure and returns how long to pause.
func (e *episode) begin(err error) time.Duration {
	e.mu.Lock()
	fresh := e.since.IsZero()
	if fresh {
		e.since, e.failed = time.Now(), 0
	}
	if e.calm != nil {
		e.calm.Stop()
		e.calm = nil
	}
	e.failed++
	e.next = min(max(2*e.next, acceptPauseMin), acceptPauseMax)
	pause := e.next
	e.mu.Unlock()
	if fresh {
		e.log.Log(context.Background(), e.level, "accept paused", "bind", e.addr.String(), "err", err)
	}
	return pause
}

// over notes a success. The episode has ended when no failure follows soon.
func (e *episode) over() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next = 0
	if !e.since.IsZero() && e.calm == nil {
		e.calm = time.AfterFunc(acceptCalm, e.end)
	}
}

// end tells that the episode is over, if there is one.
func (e *episode) end() {
	e.mu.Lock()
	since, failed := e.since, e.failed
	e.since = time.Time{}
	if e.calm != nil {
		e.calm.Stop()
		e.calm = nil
	}
	e.mu.Unlock()
	if !since.IsZero() {
		e.log.Info("accept resumed", "bind", e.addr.String(), "after", time.Since(since), "times", failed)
	}
}
