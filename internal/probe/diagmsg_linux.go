package probe

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The layouts below are those of linux/netlink.h, linux/inet_diag.h and
// linux/unix_diag.h; see sock_diag(7). Numbers are in the kernel's byte order,
// ports and addresses in the network's.

const (
	inetRequestLen = 16 + 56 // nlmsghdr, inet_diag_req_v2
	unixRequestLen = 16 + 24 // nlmsghdr, unix_diag_req
	inetAnswerLen  = 72      // inet_diag_msg
	unixAnswerLen  = 16      // unix_diag_msg

	unixDiagName = 0 // UNIX_DIAG_NAME
	unixDiagVFS  = 1 // UNIX_DIAG_VFS
	unixDiagUID  = 7 // UNIX_DIAG_UID, since Linux 5.3

	showUnix = 0x01 | 0x02 | 0x40 // UDIAG_SHOW_NAME, _VFS, _UID

	anyState = ^uint32(0)
)

var native = binary.NativeEndian

// appendHeader starts a message of n bytes. Its sequence number is set when it
// is sent.
func appendHeader(b []byte, n int, flags uint16) []byte {
	b = native.AppendUint32(b, uint32(n))
	b = native.AppendUint16(b, unix.SOCK_DIAG_BY_FAMILY)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	return append(b, make([]byte, 8)...) // sequence number, port id
}

// inetRequest asks about TCP sockets of a family whose own address is src. With
// NLM_F_DUMP in flags the answer is all of those in states (only src's port
// counts then, 0 for all); without it, the one that a connection to src through
// the interface device would reach.
func inetRequest(family uint8, flags uint16, states uint32, src netip.AddrPort, device uint32) []byte {
	return pairRequest(family, flags, states, src, netip.AddrPort{}, device)
}

// pairRequest is inetRequest for the socket whose peer has the address dst, if
// there is one.
func pairRequest(family uint8, flags uint16, states uint32, src, dst netip.AddrPort, device uint32) []byte {
	b := appendHeader(make([]byte, 0, inetRequestLen), inetRequestLen, flags)
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = native.AppendUint32(b, states)
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	for _, addr := range []netip.Addr{src.Addr(), dst.Addr()} {
		var ip [16]byte
		copy(ip[:], addr.AsSlice())
		b = append(b, ip[:]...)
	}
	b = native.AppendUint32(b, device)
	b = native.AppendUint32(b, ^uint32(0)) // INET_DIAG_NOCOOKIE
	return native.AppendUint32(b, ^uint32(0))
}

// unixDumpRequest asks for all listening unix sockets.
func unixDumpRequest() []byte {
	b := appendHeader(make([]byte, 0, unixRequestLen), unixRequestLen, unix.NLM_F_DUMP)
	b = append(b, unix.AF_UNIX, 0, 0, 0)
	b = native.AppendUint32(b, 1<<stateListen)
	b = native.AppendUint32(b, 0) // inode: any
	b = native.AppendUint32(b, showUnix)
	return append(b, make([]byte, 8)...) // cookie
}

var errShortMessage = errors.New("netlink: message is cut short")

// message is one netlink message.
type message struct {
	kind  uint16
	flags uint16
	seq   uint32
	body  []byte
}

// nextMessage takes the first message off b. b must not be empty.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < unix.NLMSG_HDRLEN {
		return message{}, nil, errShortMessage
	}
	n := native.Uint32(b)
	if n < unix.NLMSG_HDRLEN || uint64(n) > uint64(len(b)) {
		return message{}, nil, errShortMessage
	}
	m = message{
		kind:  native.Uint16(b[4:]),
		flags: native.Uint16(b[6:]),
		seq:   native.Uint32(b[8:]),
		body:  b[unix.NLMSG_HDRLEN:n],
	}
	return m, b[min(int(align4(n)), len(b)):], nil
}

func align4(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }

// failure returns what an NLMSG_ERROR or NLMSG_DONE message says; nil is success.
func (m message) failure() error {
	if len(m.body) < 4 {
		return nil // NLMSG_DONE carries a status since Linux 4.15 only
	}
	if code := int32(native.Uint32(m.body)); code < 0 {
		return unix.Errno(-code)
	}
	return nil
}

// parseInet reads an inet_diag_msg. ok is false if it is no listening socket.
func parseInet(b []byte) (s socket, ok bool) {
	if len(b) < inetAnswerLen || b[1] != stateListen {
		return socket{}, false
	}
	var ip netip.Addr
	switch b[0] {
	case unix.AF_INET:
		ip, _ = netip.AddrFromSlice(b[8:12])
	case unix.AF_INET6:
		ip, _ = netip.AddrFromSlice(b[8:24])
	default:
		return socket{}, false
	}
	return socket{
		addr:   netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[4:])),
		device: native.Uint32(b[40:]),
		uid:    int(native.Uint32(b[64:])),
		inode:  uint64(native.Uint32(b[68:])),
	}, true
}

// parseUnix reads a unix_diag_msg and its attributes. ok is false if it is no
// listening socket.
func parseUnix(b []byte) (s socket, ok bool) {
	if len(b) < unixAnswerLen || b[0] != unix.AF_UNIX || b[2] != stateListen {
		return socket{}, false
	}
	s = socket{inode: uint64(native.Uint32(b[4:])), uid: -1}
	for b = b[unixAnswerLen:]; len(b) >= 4; {
		n := native.Uint16(b)
		if n < 4 || int(n) > len(b) {
			break
		}
		s.setAttribute(native.Uint16(b[2:]), b[4:n])
		b = b[min(int(align4(uint32(n))), len(b)):]
	}
	return s, true
}

func (s *socket) setAttribute(kind uint16, value []byte) {
	switch {
	case kind == unixDiagName:
		s.path = unix.ByteSliceToString(value)
	case kind == unixDiagVFS && len(value) >= 8:
		s.vfsIno, s.vfsDev = native.Uint32(value), native.Uint32(value[4:])
		s.hasFile = true
	case kind == unixDiagUID && len(value) >= 4:
		s.uid = int(native.Uint32(value))
	}
}
