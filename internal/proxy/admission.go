package proxy

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Admission says who is served. The zero Admission serves everybody. Clients
// without an address, as on a unix socket, are always served.
type Admission struct {
	// Allow, unless empty, is who is served: clients of these networks.
	Allow []netip.Prefix
	// Deny is who is not, also if allowed.
	Deny []netip.Prefix
	// PerSource is how many connections of one source exist at once: of one
	// address, or of one /64 of IPv6, which is what a single customer has. 0
	// means no limit.
	PerSource int
}

// verdict is why a client is turned away; "" admits it.
type verdict string

const (
	notAllowed verdict = "not in --allow"
	denied     verdict = "in --deny"
	tooMany    verdict = "too many connections of this source"
)

// rejects reports why a client of that address may not connect at all.
func (a *Admission) rejects(ip netip.Addr) verdict {
	if !ip.IsValid() {
		return ""
	}
	holds := func(p netip.Prefix) bool { return p.Contains(ip) }
	switch {
	case slices.ContainsFunc(a.Deny, holds):
		return denied
	case len(a.Allow) > 0 && !slices.ContainsFunc(a.Allow, holds):
		return notAllowed
	}
	return ""
}

// sources counts the connections of each source.
type sources struct {
	mu   sync.Mutex
	open map[netip.Prefix]int
}

// enter counts a connection of an address, unless there are limit of them. Without
// a limit, which is 0, none are counted.
func (s *sources) enter(ip netip.Addr, limit int) (counted, ok bool) {
	if limit == 0 || !ip.IsValid() {
		return false, true
	}
	key := network(ip, 32)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[key] >= limit {
		return false, false
	}
	if s.open == nil {
		s.open = make(map[netip.Prefix]int)
	}
	s.open[key]++
	return true, true
}

// leave counts a connection less that was counted.
func (s *sources) leave(ip netip.Addr) {
	key := network(ip, 32)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[key]--; s.open[key] <= 0 {
		delete(s.open, key)
	}
}

// network returns the network of that many bits that an IPv4 address belongs
// to. Of IPv6 it is always the /64, within which addresses cost nothing.
func network(ip netip.Addr, bits4 int) netip.Prefix {
	bits := 64
	if ip.Is4() {
		bits = bits4
	}
	p, _ := ip.Prefix(bits) // fails for invalid addresses only
	return p
}

// wakeSource names the network by which starts of the child are counted: /24,
// or /64 of IPv6. "" is nobody's.
func wakeSource(ip netip.Addr) string {
	if !ip.IsValid() {
		return ""
	}
	return network(ip, 24).String()
}

// addrOf returns the bare IP address of a socket's peer. It is invalid where
// there is none.
func addrOf(a net.Addr) netip.Addr {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip, _ := netip.AddrFromSlice(t.IP)
	return ip.Unmap()
}

const (
	complaintPause = time.Minute // between two lines about one source
	complaintsMost = 1024        // sources remembered; the rest share one line
)

// complaints lets one line per source and minute through, and says how many it
// kept back: what a client does must not fill the log.
type complaints struct {
	mu  sync.Mutex
	now map[netip.Prefix]*complaint
}

type complaint struct {
	since time.Time
	kept  int
}

// about logs the line about a source, or keeps it back.
func (c *complaints) about(log *slog.Logger, ip netip.Addr, msg string, args ...any) {
	key := network(ip, 32)
	kept, shared, speak := c.count(key, time.Now())
	if !speak {
		return
	}
	source := key.String()
	if ip.Is4() {
		source = ip.String()
	}
	args = append([]any{"source", source}, args...)
	if kept > 0 {
		args = append(args, "before", strconv.Itoa(kept)+" more")
	}
	if shared {
		args = append(args, "hint", "there are too many such sources to tell of each")
	}
	log.Warn(msg, args...)
}

// count notes an occurrence and tells whether to speak of it.
func (c *complaints) count(key netip.Prefix, now time.Time) (kept int, shared, speak bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		c.now = make(map[netip.Prefix]*complaint)
	}
	if c.now[key] == nil && len(c.now) >= complaintsMost {
		c.forgetLocked(now)
		if len(c.now) >= complaintsMost {
			key, shared = netip.Prefix{}, true
		}
	}
	one := c.now[key]
	if one == nil {
		c.now[key] = &complaint{since: now}
		return 0, shared, true
	}
	if now.Sub(one.since) < complaintPause {
		one.kept++
		return 0, shared, false
	}
	kept = one.kept
	*one = complaint{since: now}
	return kept, shared, true
}

// forgetLocked drops those of whom nothing is kept back any more.
func (c *complaints) forgetLocked(now time.Time) {
	for key, one := range c.now {
		if now.Sub(one.since) >= complaintPause {
			delete(c.now, key)
		}
	}
}
