package direct

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// census counts who is connected to the child, or about to be, at the places
// where clients come in: the listener's and the child's own. A connection that
// nobody has accepted yet has no inode and counts; one that the child has
// closed does not, whatever the kernel still has to deliver. It does not count
// beyond most.
func census(places []place, carried map[Pair]bool, most int) (n int, err error) {
	return countWhere(places, most, func(c connection) bool { return counts(c) && !carried[c.Pair] })
}

// countWhere counts the connections at places for which which holds, up to most.
func countWhere(places []place, most int, which func(connection) bool) (n int, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, fmt.Errorf("open netlink sock_diag: %w", err)
	}
	defer unix.Close(fd)
	// The kernel answers while it is being asked: a look fails sooner than it hangs.
	tv := unix.NsecToTimeval(time.Second.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return 0, fmt.Errorf("set the netlink timeout: %w", err)
	}
	tally := func(c connection) bool {
		here := func(p place) bool { return p.holds(c.Local) }
		if which(c) && slices.ContainsFunc(places, here) {
			n++
		}
		return n < most
	}
	for _, port := range portsOf(places) {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			err := dump(fd, dumpRequest(family, port, countedStates), tally)
			// A kernel without IPv6 knows nothing of that family.
			if err != nil && (family == unix.AF_INET || !errors.Is(err, unix.ENOENT)) {
				return 0, fmt.Errorf("list connections: %w", err)
			}
			if n >= most {
				return n, nil // the rest of the answer goes with the socket
			}
		}
	}
	return n, nil
}

// countedStates are the states of connections that may count.
const countedStates = 1<<stateEstablished | 1<<stateSynReceived | 1<<stateFinWait1 | 1<<stateFinWait2 | 1<<stateCloseWait

// counts reports whether somebody is connected. Once the child has half-closed,
// only a process that still has the socket reads from it.
func counts(c connection) bool {
	switch c.state {
	case stateEstablished, stateSynReceived, stateCloseWait:
		return true
	case stateFinWait1, stateFinWait2:
		return c.inode != 0
	}
	return false
}

// portsOf returns the ports of places, each once.
func portsOf(places []place) []uint16 {
	var ports []uint16
	for _, p := range places {
		if port := p.addr.Port(); !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	return ports
}

// dump asks, and yields every connection of the answer until yield has enough.
func dump(fd int, request []byte, yield func(connection) bool) error {
	if _, err := unix.Write(fd, request); err != nil {
		return fmt.Errorf("ask netlink sock_diag: %w", err)
	}
	for buf := make([]byte, bufferSize); ; {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read netlink sock_diag: %w", err)
		}
		if n == 0 {
			return errShortMessage
		}
		for b := buf[:n]; len(b) > 0; {
			var m message
			if m, b, err = nextMessage(b); err != nil {
				return err
			}
			switch m.kind {
			case unix.NLMSG_ERROR, unix.NLMSG_DONE:
				return m.failure()
			}
			if c, ok := parseConnection(m.body); ok && !yield(c) {
				return nil
			}
		}
	}
}
