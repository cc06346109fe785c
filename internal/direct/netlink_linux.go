package direct

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The layouts below are those of linux/netlink.h and linux/inet_diag.h; see
// sock_diag(7). Numbers are in the kernel's byte order, ports and addresses in
// the network's.

const (
	requestLen = 16 + 56 // nlmsghdr, inet_diag_req_v2
	answerLen  = 72      // inet_diag_msg

	// bufferSize holds the largest datagram of a dump.
	bufferSize = 32 << 10

	// Where an event's own port is, from the beginning of the message.
	offsetSourcePort = 16 + 4
)

// States of a TCP socket, from tcp_states.h.
const (
	stateEstablished = 1
	stateSynReceived = 3
	stateFinWait1    = 4
	stateFinWait2    = 5
	stateCloseWait   = 8
)

var native = binary.NativeEndian

var errShortMessage = errors.New("netlink: message is cut short")

// dumpRequest asks for all TCP sockets of a family and a local port that are in
// one of the states.
func dumpRequest(family uint8, port uint16, states uint32) []byte {
	b := make([]byte, 0, requestLen)
	b = native.AppendUint32(b, requestLen)
	b = native.AppendUint16(b, unix.SOCK_DIAG_BY_FAMILY)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b = append(b, make([]byte, 8)...) // sequence number, port id
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = native.AppendUint32(b, states)
	b = binary.BigEndian.AppendUint16(b, port)
	b = append(b, make([]byte, 2+16+16+4)...) // any peer, address and interface
	b = native.AppendUint32(b, ^uint32(0))    // INET_DIAG_NOCOOKIE
	return native.AppendUint32(b, ^uint32(0))
}

// message is one netlink message.
type message struct {
	kind uint16
	body []byte
}

// nextMessage takes the first message off b, which is not empty.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < unix.NLMSG_HDRLEN {
		return message{}, nil, errShortMessage
	}
	n := native.Uint32(b)
	if n < unix.NLMSG_HDRLEN || uint64(n) > uint64(len(b)) {
		return message{}, nil, errShortMessage
	}
	m = message{kind: native.Uint16(b[4:]), body: b[unix.NLMSG_HDRLEN:n]}
	aligned := (uint64(n) + 3) &^ 3
	return m, b[min(aligned, uint64(len(b))):], nil
}

// failure returns what NLMSG_ERROR or NLMSG_DONE says; nil is success.
func (m message) failure() error {
	if len(m.body) < 4 {
		return nil
	}
	if code := int32(native.Uint32(m.body)); code < 0 {
		return unix.Errno(-code)
	}
	return nil
}

// connection is what the kernel tells of one end of a connection.
type connection struct {
	Pair
	state byte
	inode uint32 // 0 = no process has it
}

// parseConnection reads an inet_diag_msg.
func parseConnection(b []byte) (connection, bool) {
	if len(b) < answerLen {
		return connection{}, false
	}
	n := 4
	switch b[0] {
	case unix.AF_INET:
	case unix.AF_INET6:
		n = 16
	default:
		return connection{}, false
	}
	local, _ := netip.AddrFromSlice(b[8 : 8+n])
	remote, _ := netip.AddrFromSlice(b[24 : 24+n])
	return connection{
		Pair: Pair{
			Local:  netip.AddrPortFrom(local.Unmap(), binary.BigEndian.Uint16(b[4:])),
			Remote: netip.AddrPortFrom(remote.Unmap(), binary.BigEndian.Uint16(b[6:])),
		},
		state: b[1],
		inode: native.Uint32(b[68:]),
	}, true
}
