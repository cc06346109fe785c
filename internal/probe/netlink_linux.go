package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// netlinkTables asks the kernel through NETLINK_SOCK_DIAG, see sock_diag(7). A
// lookup is the kernel's own: it finds what a connection would find, wildcard
// addresses, dual-stack sockets and SO_REUSEPORT included, and takes a few
// microseconds however many sockets there are. Not safe for concurrent use.
type netlinkTables struct {
	fd  int
	seq uint32
	buf []byte
}

// answerBuffer holds the largest datagram of a dump (NLMSG_GOODSIZE and the
// kernel's cap for dumps are both below).
const answerBuffer = 32 << 10

// openNetlink opens a socket of its own. It does not tell whether the kernel can
// answer: see check.
func openNetlink() (*netlinkTables, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open netlink sock_diag: %w", err)
	}
	// The kernel answers while it is being asked. Should that ever be wrong,
	// a look fails and does not hang.
	tv := unix.NsecToTimeval(time.Second.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set the netlink timeout: %w", err)
	}
	return &netlinkTables{fd: fd, buf: make([]byte, answerBuffer)}, nil
}

func (t *netlinkTables) close() { unix.Close(t.fd) }

// check reports whether the kernel can answer for TCP. A lookup cannot tell:
// without the tcp_diag module it fails with ENOENT, just as it does when no
// socket is there.
func (t *netlinkTables) check() error {
	_, err := t.dump(inetRequest(unix.AF_INET, unix.NLM_F_DUMP, 1<<stateListen, netip.AddrPortFrom(netip.Addr{}, 1), 0), parseInet)
	return err
}

// checkUnix is check for unix sockets.
func (t *netlinkTables) checkUnix() error {
	_, err := t.unixListeners()
	return err
}

// lookup finds the listening socket that serves connections to d.
func (t *netlinkTables) lookup(d *target) (socket, bool, error) {
	if d.request == nil {
		d.request = lookupRequest(d)
	}
	body, err := t.askOne(d.request)
	if err != nil || body == nil {
		return socket{}, false, err
	}
	s, ok := parseInet(body)
	return s, ok, nil
}

// askOne sends a request without NLM_F_DUMP and returns the body of the answer,
// which is valid until the next call. It is nil if there is no such socket.
func (t *netlinkTables) askOne(request []byte) ([]byte, error) {
	if err := t.send(request); err != nil {
		return nil, err
	}
	for {
		b, err := t.receive()
		if err != nil {
			return nil, err
		}
		m, _, err := nextMessage(b)
		switch {
		case err != nil:
			return nil, err
		case m.seq != t.seq: // of an earlier question that was given up
		case m.kind == unix.NLMSG_ERROR:
			if err := m.failure(); err != nil && !errors.Is(err, unix.ENOENT) {
				return nil, fmt.Errorf("look up a socket: %w", err)
			}
			return nil, nil
		default:
			return m.body, nil
		}
	}
}

func lookupRequest(d *target) []byte {
	family := uint8(unix.AF_INET)
	if d.addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	return inetRequest(family, 0, anyState, d.addr, d.device)
}

// listeners returns the listening TCP sockets on a port, or all if it is 0.
func (t *netlinkTables) listeners(port uint16) ([]socket, error) {
	var all []socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		src := netip.AddrPortFrom(netip.Addr{}, port)
		some, err := t.dump(inetRequest(family, unix.NLM_F_DUMP, 1<<stateListen, src, 0), parseInet)
		// A kernel without IPv6 knows nothing of that family.
		if err != nil && (family == unix.AF_INET || !errors.Is(err, unix.ENOENT)) {
			return nil, fmt.Errorf("list listening sockets: %w", err)
		}
		for _, s := range some {
			if port == 0 || s.addr.Port() == port {
				all = append(all, s)
			}
		}
	}
	return all, nil
}

// unixListeners returns all listening unix sockets.
func (t *netlinkTables) unixListeners() ([]socket, error) {
	all, err := t.dump(unixDumpRequest(), parseUnix)
	if err != nil {
		return nil, fmt.Errorf("list listening unix sockets: %w", err)
	}
	return all, nil
}

// dump sends a request with NLM_F_DUMP and parses all of its answer. A dump
// that the kernel marks as interrupted may lack sockets; here that costs one
// look, so it is no error.
func (t *netlinkTables) dump(request []byte, parse func([]byte) (socket, bool)) ([]socket, error) {
	if err := t.send(request); err != nil {
		return nil, err
	}
	var all []socket
	for {
		b, err := t.receive()
		if err != nil {
			return nil, err
		}
		for len(b) > 0 {
			var m message
			if m, b, err = nextMessage(b); err != nil {
				return nil, err
			}
			switch {
			case m.seq != t.seq:
			case m.kind == unix.NLMSG_ERROR, m.kind == unix.NLMSG_DONE:
				return all, m.failure()
			default:
				if s, ok := parse(m.body); ok {
					all = append(all, s)
				}
			}
		}
	}
}

func (t *netlinkTables) send(request []byte) error {
	t.seq++
	native.PutUint32(request[8:], t.seq)
	for {
		_, err := unix.Write(t.fd, request)
		if !errors.Is(err, unix.EINTR) {
			if err != nil {
				return fmt.Errorf("ask netlink sock_diag: %w", err)
			}
			return nil
		}
	}
}

// receive returns one datagram, which is valid until the next call.
func (t *netlinkTables) receive() ([]byte, error) {
	for {
		n, err := unix.Read(t.fd, t.buf)
		if err == nil && n == 0 {
			err = errShortMessage
		}
		if !errors.Is(err, unix.EINTR) {
			if err != nil {
				return nil, fmt.Errorf("read netlink sock_diag: %w", err)
			}
			return t.buf[:n], nil
		}
	}
}
