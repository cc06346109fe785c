package probe

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// stateEstablished is TCP_ESTABLISHED of the kernel's tcp_states.h.
const stateEstablished = 1

// Taken tells whether the program that listens on this machine has taken the
// connection nc, which was made to it, from its backlog. Until accept(2) the
// other end is an established socket of no process, which the kernel shows
// without an inode (sock_diag(7)).
//
// known is false where that cannot be found out: nc is no TCP connection, its
// other end is on another machine or in another network namespace or gone, or
// waits for the first bytes before it shows (TCP_DEFER_ACCEPT in tcp(7)). Where we
// lack a descriptor to find it out, the connection counts as not taken yet: asking
// again will tell.
func Taken(nc net.Conn) (taken, known bool) {
	ours, ok := tcpAddr(nc.LocalAddr())
	theirs, fine := tcpAddr(nc.RemoteAddr())
	if !ok || !fine {
		return false, false
	}
	t, err := openNetlink()
	if err != nil {
		return false, isShortage(err)
	}
	defer t.close()
	family := uint8(unix.AF_INET)
	if theirs.Addr().Is6() {
		family = unix.AF_INET6
	}
	b, err := t.askOne(pairRequest(family, 0, anyState, theirs, ours, loopbackIndex))
	if err != nil || !isPair(b, theirs, ours) || b[1] == stateSynReceived || b[1] == stateListen {
		return false, false
	}
	inode := native.Uint32(b[68:])
	return inode != 0 || b[1] != stateEstablished, true
}

// stateSynReceived is TCP_SYN_RECV.
const stateSynReceived = 3

// isPair reports whether b describes the socket at theirs whose peer is ours.
// Without one the kernel shows the listener.
func isPair(b []byte, theirs, ours netip.AddrPort) bool {
	return len(b) >= inetAnswerLen &&
		uint16(b[4])<<8|uint16(b[5]) == theirs.Port() && uint16(b[6])<<8|uint16(b[7]) == ours.Port()
}

// tcpAddr returns the address of a TCP socket, IPv4 ones as such.
func tcpAddr(a net.Addr) (netip.AddrPort, bool) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()), true
}
