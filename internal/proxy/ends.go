package proxy

import (
	"net"
	"net/netip"
)

// End is one end of a TCP connection: its own address and its peer's.
type End struct{ Local, Remote netip.AddrPort }

// Ends returns the ends of all connections that exist where clients come in:
// ours towards them, and the child's towards us. Unix sockets have none.
func (s *Server) Ends() []End {
	s.mu.Lock()
	all := s.connsLocked()
	s.mu.Unlock()
	ends := make([]End, 0, 2*len(all))
	for _, c := range all {
		ends = appendEnd(ends, c.client.LocalAddr(), c.client.RemoteAddr())
		c.mu.Lock()
		up := c.upstream
		c.mu.Unlock()
		if up != nil {
			ends = appendEnd(ends, up.RemoteAddr(), up.LocalAddr())
		}
	}
	return ends
}

func appendEnd(ends []End, local, remote net.Addr) []End {
	l, ok := local.(*net.TCPAddr)
	r, fine := remote.(*net.TCPAddr)
	if !ok || !fine || l == nil || r == nil {
		return ends
	}
	return append(ends, End{Local: endAddr(l), Remote: endAddr(r)})
}

// endAddr is the address as the kernel compares it.
func endAddr(a *net.TCPAddr) netip.AddrPort {
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
