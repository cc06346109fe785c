package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// tables shows the listening sockets of this network namespace.
type tables interface {
	// lookup finds the listening socket that serves connections to d.
	lookup(d *target) (socket, bool, error)
	// listeners returns the listening TCP sockets on a port, or all if it is 0.
	listeners(port uint16) ([]socket, error)
	// unixListeners returns the listening unix sockets that have a name.
	unixListeners() ([]socket, error)
	close()
}

// target is one address of a destination.
type target struct {
	addr    netip.AddrPort
	device  uint32 // the interface that a connection from this machine comes in by
	request []byte // netlinkTables' question, made once
}

// loopbackIndex is LOOPBACK_IFINDEX of the kernel's net/flow.h: the loopback
// interface is the first of every network namespace, and connections from this
// machine to itself come in by it, to whichever address they go.
const loopbackIndex = 1

func newTargets(addrs []netip.AddrPort) []*target {
	var all []*target
	for _, addr := range addrs {
		t := &target{addr: addr, device: loopbackIndex}
		if zone := addr.Addr().Zone(); zone != "" {
			t.device = zoneIndex(zone)
		}
		all = append(all, t)
	}
	return all
}

// zoneIndex is the number of the interface that an IPv6 zone names, or 0.
func zoneIndex(zone string) uint32 {
	if ifi, err := net.InterfaceByName(zone); err == nil {
		return uint32(ifi.Index)
	}
	n, _ := strconv.ParseUint(zone, 10, 32)
	return uint32(n)
}

// openTables takes netlink where that is to be had, and /proc elsewhere: in
// sandboxes, under strict seccomp filters, or without the kernel modules
// tcp_diag and unix_diag.
func (l *Listen) openTables() (tables, error) {
	nl, err := l.openNetlink()
	switch {
	case err == nil:
		return nl, nil
	case isShortage(err): // it may well be had in a moment
		return nil, fmt.Errorf("read the kernel's tables of listening sockets: %w", err)
	}
	var proc procTables
	ask := func() ([]socket, error) { return proc.listeners(0) }
	if l.Dest.Network == "unix" {
		ask = proc.unixListeners
	}
	if _, procErr := ask(); procErr != nil {
		return nil, fmt.Errorf("the kernel's tables of listening sockets cannot be read, so use --ready dial: %w; %w", err, procErr)
	}
	return proc, nil
}

// openNetlink opens netlink's tables if they answer for the destination's kind
// of socket.
func (l *Listen) openNetlink() (*netlinkTables, error) {
	if l.noNetlink {
		return nil, errors.ErrUnsupported
	}
	nl, err := openNetlink()
	if err != nil || l.netlinkAnswers.Load() {
		return nl, err
	}
	check := nl.check
	if l.Dest.Network == "unix" {
		check = nl.checkUnix
	}
	if err := check(); err != nil {
		nl.close()
		return nil, err
	}
	l.netlinkAnswers.Store(true)
	return nl, nil
}

// procTables reads /proc/net. That takes a millisecond for every thousand
// sockets or so, listening or not.
type procTables struct{}

// netDir is the network namespace of the thread that reads, see proc(5).
const netDir = "/proc/thread-self/net/"

func (procTables) close() {}

func (p procTables) lookup(d *target) (socket, bool, error) {
	all, err := p.listeners(d.addr.Port())
	var best socket
	score := 0
	for _, s := range all {
		if n := rank(s, d.addr); n > score {
			best, score = s, n
		}
	}
	return best, score > 0, err
}

func (procTables) listeners(port uint16) ([]socket, error) {
	var all []socket
	for _, name := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(netDir + name)
		if name == "tcp6" && errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		parseProcTCP(text, func(s socket) bool {
			if port == 0 || s.addr.Port() == port {
				all = append(all, s)
			}
			return true
		})
	}
	return all, nil
}

func (procTables) unixListeners() ([]socket, error) {
	text, err := os.ReadFile(netDir + "unix")
	if err != nil {
		return nil, err
	}
	var all []socket
	parseProcUnix(text, func(s socket) bool {
		all = append(all, s)
		return true
	})
	return all, nil
}

// sameFile reports whether s is bound to the file that st describes.
func (s socket) sameFile(st *unix.Stat_t) bool {
	// The kernel's own dev_t has 20 bits for the minor number; stat(2) tells
	// another layout, see makedev(3).
	rdev := uint64(st.Dev) //nolint:unconvert // 32 bits on some architectures
	dev := unix.Major(rdev)<<20 | unix.Minor(rdev)
	return s.hasFile && s.vfsDev == dev && s.vfsIno == uint32(st.Ino)
}
