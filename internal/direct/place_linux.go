package direct

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// place is the local address of the packets that a listener gets.
type place struct {
	addr netip.AddrPort // IPv4 addresses as such
	dual bool           // a wildcard of both families
}

// placeOf asks the kernel where a listener is: what was written ("localhost",
// "0.0.0.0") leaves open what it became.
func placeOf(l *net.TCPListener) (place, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return place{}, err
	}
	var out place
	var inner error
	err = raw.Control(func(fd uintptr) { out, inner = placeOfSocket(int(fd)) })
	return out, errors.Join(err, inner)
}

func placeOfSocket(fd int) (place, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return place{}, fmt.Errorf("getsockname: %w", err)
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return place{addr: netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))}, nil
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr).Unmap()
		if ip.IsLinkLocalUnicast() {
			return place{}, errors.New("--bind is a link-local address, which is one on every link")
		}
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return place{}, fmt.Errorf("getsockopt IPV6_V6ONLY: %w", err)
		}
		return place{addr: netip.AddrPortFrom(ip, uint16(a.Port)), dual: ip.IsUnspecified() && only == 0}, nil
	}
	return place{}, fmt.Errorf("--bind is no TCP socket: %w", syscall.EAFNOSUPPORT)
}

// placeOfListener is where a child's listening socket is: a wildcard of IPv6
// may be one of both families.
func placeOfListener(at netip.AddrPort) place {
	ip := at.Addr().Unmap()
	return place{addr: netip.AddrPortFrom(ip, at.Port()), dual: ip.Is6() && ip.IsUnspecified()}
}

// holds reports whether a connection with that local address came in here.
func (p place) holds(local netip.AddrPort) bool {
	switch ip := p.addr.Addr(); {
	case local.Port() != p.addr.Port():
		return false
	case p.dual:
		return true
	case ip.IsUnspecified():
		return ip.Is4() == local.Addr().Is4()
	default:
		return ip == local.Addr()
	}
}
