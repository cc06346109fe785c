package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"tiproxy/internal/pool"
)

// Pool gives out the child that connections are carried to. [pool.Pool] is one.
type Pool interface {
	TryGet() (*pool.Lease, bool)
	Get(ctx context.Context, by pool.Caller) (*pool.Lease, error)
	Put(l *pool.Lease)
}

// Config is how a Server behaves.
type Config struct {
	// Hold is how long a client is held while the child lives but takes no
	// connection, counted from the first refusal; 0 means for ever.
	Hold time.Duration
	// MaxConnections is how many connections exist at once, those that wait
	// included. Further ones stay in the kernel's backlog. 0 means no limit.
	MaxConnections int
	// MaxWaiting is how many connections wait for the child at once. Further
	// ones stay in the kernel's backlog. 0 means no limit of its own.
	MaxWaiting int
	// Admission says who is served.
	Admission Admission
	// WakeOnData keeps a client away from the child until it has said something.
	WakeOnData bool
	// Quiet says what becomes of connections that carry nothing.
	Quiet Quiet
	// Header is the version of the PROXY protocol header that is sent to the
	// child in front of everything else: 1 or 2, 0 for none.
	Header byte
	// TrustHeader are the peers who send such a header, which is required of
	// them and believed. From others nothing is taken for one.
	TrustHeader []netip.Prefix
	// Taken, if set, is asked about connections to a child that has not proved
	// itself yet.
	Taken Taken
	// Arrived, if set, is called for every client that is accepted. It must
	// not block.
	Arrived func()
	// Waited and Lasted, if set, are told how long a client was held until it was
	// connected, if it had to wait, and how long a connection existed. They must
	// not block.
	Waited, Lasted func(time.Duration)
	// Log receives the server's log lines; nil drops them.
	Log *slog.Logger
}

var (
	errClientLeft = errors.New("the client has left")
	errHeld       = errors.New("the child took no connection")
	errDrain      = errors.New("tiproxy is stopping")
)

// Server accepts clients and carries their bytes to a pool's child. Its
// methods are safe for concurrent use.
type Server struct {
	pool  Pool
	cfg   atomic.Pointer[Config]
	log   *slog.Logger
	wires *wires
	slots *places // of connections that may exist
	seats *places // of connections that may wait

	held    context.Context // done when nobody is held any more
	endHeld context.CancelCauseFunc
	refused damper // of the warning that a client was held too long

	sources    sources
	complaints complaints // of clients that are turned away
	wakesHeld  complaints // of clients that may not wake the child yet

	left   chan struct{}
	counts counters
	shown  tally
	trust  trust
	looks  looks    // at the child, shared
	short  shortage // of what it takes to dial
	room   room     // for clients
	limit  int      // of descriptors, at first

	// The fields below are guarded by mu.
	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	draining  bool
	aborted   bool
}

// New returns a server that takes its leases from p. It accepts nothing before
// Serve.
func New(p Pool, cfg Config) *Server {
	s := &Server{
		pool:      p,
		log:       cfg.Log,
		wires:     newWires(cfg.MaxConnections),
		left:      make(chan struct{}, 1),
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.short.log, s.limit = s.log, descriptorLimit()
	s.slots, s.seats = new(places), new(places)
	s.Configure(cfg)
	s.held, s.endHeld = context.WithCancelCause(context.Background())
	return s
}

// Configure changes how the server behaves, at once; Log stays what it was. The
// connections that exist stay, also if there are more than there may be now, or
// their clients would be turned away. They are watched for quiet as it was said
// when they were connected, and count against PerSource only if there was such a
// limit when they came.
func (s *Server) Configure(cfg Config) {
	s.cfg.Store(&cfg)
	s.slots.setLimit(cfg.MaxConnections)
	s.seats.setLimit(cfg.MaxWaiting)
	s.wires.pipes.setLimit(cfg.MaxConnections, descriptorLimit())
}

// config is how the server behaves now.
func (s *Server) config() *Config { return s.cfg.Load() }

// Unlisten closes a listener that is served, and Serve returns nil for it. Its
// connections go on. Clients whom nobody has accepted yet are reset by the kernel,
// unless somebody else has the listening socket, too.
func (s *Server) Unlisten(l net.Listener) {
	s.mu.Lock()
	delete(s.listeners, l)
	s.mu.Unlock()
	l.Close() // what it could report would change nothing
}

// Drain closes the listeners and resets the clients that wait. Connections
// that are carried go on; those that end from now on are closed only when
// their last bytes are acknowledged, or after two seconds.
func (s *Server) Drain() {
	s.mu.Lock()
	s.draining = true
	open := s.listeners
	s.listeners = make(map[net.Listener]struct{})
	s.mu.Unlock()

	s.wires.draining.Store(true)
	for l := range open {
		l.Close() // what it could report would change nothing
	}
	s.endHeld(errDrain)
}

// Reset ends everything at once: it drains, and resets every connection.
func (s *Server) Reset() {
	s.Drain()
	s.mu.Lock()
	if !s.aborted {
		s.aborted = true
		close(s.wires.abort)
	}
	all := s.connsLocked()
	s.mu.Unlock()
	for _, c := range all {
		c.abort()
	}
}

// Abandon is for the end of the program. It resets the connections of which
// bytes from the child have not even reached the kernel, so that what is cut
// does not look complete. What the kernel has, it delivers after the program.
func (s *Server) Abandon() {
	s.mu.Lock()
	all := s.connsLocked()
	s.mu.Unlock()
	for _, c := range all {
		c.abandon()
	}
}

// Wait returns nil when no connection is left, and an error that wraps ctx's
// cause and says how many there are when ctx ends first. While it waits, a
// connection whose child has ended is closed as soon as everything that came
// from the child is acknowledged.
func (s *Server) Wait(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		n := s.sweep()
		if n == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d connections are still open: %w", n, context.Cause(ctx))
		case <-s.left:
		case <-tick.C:
		}
	}
}

// Connections returns how many connections exist, those that wait included.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// sweep ends what has nothing left to carry and returns how many connections
// there were.
func (s *Server) sweep() int {
	s.mu.Lock()
	all := s.connsLocked()
	s.mu.Unlock()
	for _, c := range all {
		c.endIfServed()
	}
	return len(all)
}

// connsLocked returns the connections that exist.
func (s *Server) connsLocked() []*conn {
	all := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	return all
}

// add counts a connection and reports whether it is to be served.
func (s *Server) add(c *conn) bool {
	s.counts.accepted.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
	return !s.draining
}

// remove forgets a connection whose sockets are closed and frees its place.
func (s *Server) remove(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	quiet := len(s.conns) == 0
	s.mu.Unlock()
	if quiet {
		s.wires.trim()
	}
	s.slots.free()
	select {
	case s.left <- struct{}{}:
	default:
	}
}
