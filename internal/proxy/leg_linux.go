package proxy

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tcpClose is TCP_CLOSE of the kernel's tcp_states.h, in which a socket is
// after a reset, a timeout, or the end of both directions. The states below
// are those in which the peer has sent its end and we have sent ours.
const (
	tcpTimeWait = 6
	tcpClose    = 7
	tcpLastAck  = 9
	tcpClosing  = 11
)

// leg is one side of a connection: the client's or the child's.
//
// The kernel reports a reset once, to whichever call comes first; the next
// read finds a clean end. So whoever gets an error from the socket notes it,
// and an end counts as one only when verdict agrees.
type leg struct {
	conn net.Conn
	raw  syscall.RawConn
	tcp  bool

	mu      sync.Mutex
	err     error // the first error of the socket: the peer is gone
	finSent bool  // we have ended our direction
}

// init makes l the leg of a TCP or unix connection.
func (l *leg) init(nc net.Conn) (err error) {
	l.conn = nc
	switch c := nc.(type) {
	case *net.TCPConn:
		l.tcp = true
		l.raw, err = c.SyscallConn()
	case *net.UnixConn:
		l.raw, err = c.SyscallConn()
	default:
		err = fmt.Errorf("%T is neither a TCP nor a unix connection", nc)
	}
	return err
}

// note records an error that the socket has reported, if it is the first one.
func (l *leg) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

// verdict returns why the peer is gone: it reset the connection or does not
// answer any more. nil means that all is well, or has come to a clean end.
func (l *leg) verdict() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.control(l.inspectLocked)
	return l.err
}

// inspectLocked looks for an error that no call has reported.
func (l *leg) inspectLocked(fd int) {
	closed := false
	if l.tcp {
		if closed = tcpState(fd) == tcpClose; !closed {
			return // tcp_reset and tcp_write_err of the kernel leave no other state behind
		}
	}
	if e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && e != 0 {
		l.err = syscall.Errno(e)
		return
	}
	if closed && !l.finSent {
		// A clean end has our own FIN in it. Another call has got the error
		// and has not noted it yet.
		l.err = syscall.ECONNRESET
	}
}

// endedBeforeError reports, for a leg of which a read has returned 0, whether
// the peer had ended its direction before it was gone. The kernel says EPIPE
// where a reset came after a FIN, ECONNRESET where it came without one.
func (l *leg) endedBeforeError() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err == nil || l.err == syscall.EPIPE
}

// finish ends our direction. The peer reads the end after everything that was
// written.
func (l *leg) finish() error {
	l.mu.Lock()
	l.finSent = true // first, so that a HUP seen by others has its explanation
	l.mu.Unlock()
	switch c := l.conn.(type) {
	case *net.TCPConn:
		return c.CloseWrite()
	case *net.UnixConn:
		return c.CloseWrite()
	}
	return nil
}

// ourEndSent reports whether finish was called.
func (l *leg) ourEndSent() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.finSent
}

// peerClosed reports whether the peer's side has ended for good although bytes
// of it may wait to be read: both ends were sent, or the socket is dead.
func (l *leg) peerClosed() bool {
	closed := false
	l.control(func(fd int) {
		if !l.tcp {
			closed = pollEvents(fd)&unix.POLLHUP != 0
			return
		}
		switch tcpState(fd) {
		case tcpTimeWait, tcpClose, tcpLastAck, tcpClosing:
			closed = true
		}
	})
	return closed
}

// unacknowledged returns how many bytes the peer's kernel (for a unix socket:
// the peer) has not taken yet: SIOCOUTQ in tcp(7) and unix(7). It is 0 when
// they never will be.
func (l *leg) unacknowledged() int {
	n := 0
	l.control(func(fd int) {
		if l.tcp && tcpState(fd) == tcpClose {
			return
		}
		if q, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); err == nil {
			n = q
		}
	})
	return n
}

// unread returns how many bytes wait to be taken from the socket: SIOCINQ in
// tcp(7) and unix(7).
func (l *leg) unread() int {
	n := 0
	l.control(func(fd int) {
		if q, err := unix.IoctlGetInt(fd, unix.SIOCINQ); err == nil {
			n = q
		}
	})
	return n
}

// wake makes a goroutine that waits to read from the leg look up.
func (l *leg) wake() { l.conn.SetReadDeadline(time.Unix(1, 0)) }

// control runs f on the descriptor. A leg that is closed has none, and nobody
// asks about it any more.
func (l *leg) control(f func(fd int)) {
	_ = l.raw.Control(func(fd uintptr) { f(int(fd)) })
}

// tcpState returns the state of a TCP socket, the first byte of TCP_INFO.
func tcpState(fd int) byte {
	v, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(v))
	return b[0]
}

// pollEvents returns POLLERR and POLLHUP if they hold now.
func pollEvents(fd int) int16 {
	set := [1]unix.PollFd{{Fd: int32(fd)}}
	for {
		_, err := unix.Poll(set[:], 0)
		if err != unix.EINTR {
			return set[0].Revents
		}
	}
}
