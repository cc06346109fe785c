package proxy

import (
	"slices"
	"sync"
	"time"
)

// Conn is one connection at one moment, for display.
type Conn struct {
	Client   string // its address; what a trusted peer says of it once it is carried
	Since    time.Time
	Waiting  bool // it is not connected to a child
	Resting  bool // it does not keep the child awake
	Up, Down uint64
}

// Conns returns the connections that exist, the oldest first.
func (s *Server) Conns() []Conn {
	s.mu.Lock()
	all := s.connsLocked()
	s.mu.Unlock()
	list := make([]Conn, len(all))
	for i, c := range all {
		list[i] = c.show()
	}
	slices.SortFunc(list, func(a, b Conn) int { return a.Since.Compare(b.Since) })
	return list
}

func (c *conn) show() Conn {
	c.mu.Lock()
	r := c.relay
	c.mu.Unlock()
	if r == nil {
		return Conn{Client: name(c.client), Since: c.since, Waiting: true}
	}
	out := Conn{Client: c.name(), Since: c.since, Resting: r.vigil.isResting()}
	out.Up, out.Down = r.carried()
	return out
}

// tally are bytes that were shown to somebody, to whom they never become fewer.
type tally struct {
	mu       sync.Mutex
	up, down uint64
}

// Carried returns how many bytes were carried to and from the child so far, those
// of connections that go on included.
func (s *Server) Carried() (up, down uint64) {
	// In this order a connection that ends meanwhile may be missed, as it is no
	// longer among the one and not yet among the other, but never counts twice.
	up, down = s.counts.up.Load(), s.counts.down.Load()
	s.mu.Lock()
	all := s.connsLocked()
	s.mu.Unlock()
	for _, c := range all {
		c.mu.Lock()
		r := c.relay
		c.mu.Unlock()
		if r != nil {
			u, d := r.carried()
			up, down = up+u, down+d
		}
	}
	t := &s.shown
	t.mu.Lock()
	defer t.mu.Unlock()
	t.up, t.down = max(t.up, up), max(t.down, down)
	return t.up, t.down
}
