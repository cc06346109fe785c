package direct

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// errMPTCP is why a socket cannot be led to.
var errMPTCP = errors.New("its listening socket speaks MPTCP, which the kernel cannot lead to: " +
	"a program written in Go opens plain TCP sockets with multipathtcp=0 in GODEBUG")

// keepalive is what the copy path sets on its connections: a vanished peer is
// noticed within three minutes (tcp(7)).
var keepalive = []struct{ level, name, value int }{
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
}

// lead puts a socket of the child into a slot, and reports whether it was not
// there. The copy of its descriptor that this takes is closed before lead
// returns: kept open, it would go on completing handshakes when the child is
// dead.
func (k *kernel) lead(slot int, s Socket) (fresh bool, err error) {
	fd, err := fetch(s)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if err := prepare(fd); err != nil {
		return false, err
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return false, fmt.Errorf("getsockopt SO_COOKIE: %w", err)
	}
	if fresh, err = k.put(slot, fd, cookie); err != nil {
		return false, fmt.Errorf("lead to a listening socket: %w", err)
	}
	return fresh, nil
}

// fetch returns a descriptor of ours for the child's socket (pidfd_getfd(2)).
func fetch(s Socket) (int, error) {
	pidfd, err := unix.PidfdOpen(s.PID, 0)
	if err != nil {
		return -1, fmt.Errorf("pidfd_open %d: %w", s.PID, err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, s.FD, 0)
	if errors.Is(err, unix.EPERM) {
		return -1, fmt.Errorf("fetch a socket of process %d, which needs its user or CAP_SYS_PTRACE: pidfd_getfd: %w", s.PID, err)
	}
	if err != nil {
		return -1, fmt.Errorf("fetch a socket of process %d: pidfd_getfd: %w", s.PID, err)
	}
	if err := check(fd, s.Inode); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// check reports an error unless fd is that very socket, and plain TCP.
func check(fd int, inode uint64) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("look at a fetched socket: %w", err)
	}
	if st.Ino != inode {
		return fmt.Errorf("fetch a socket: %w: its descriptor was given to something else", unix.EBADF)
	}
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	// SO_BINDTOIFINDEX in socket(7); kernels that lead know it.
	device, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	switch {
	case err != nil:
		return fmt.Errorf("getsockopt SO_PROTOCOL: %w", err)
	case protocol == unix.IPPROTO_MPTCP:
		return errMPTCP
	case device != 0:
		return fmt.Errorf("its listening socket is bound to interface %d, by which not all clients come: %w", device, unix.EXDEV)
	case protocol != unix.IPPROTO_TCP:
		return fmt.Errorf("its listening socket is of protocol %d: %w", protocol, unix.EPROTONOSUPPORT)
	}
	return nil
}

// prepare sets on a listening socket what its connections are to inherit.
//
// They have tiproxy's port, so what the kernel still does for them when all is
// over would keep the next tiproxy from it, but for SO_REUSEADDR. And a
// vanished peer is to be noticed, unless the child has seen to that itself.
func prepare(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fmt.Errorf("set SO_REUSEADDR: %w", err)
	}
	on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
	if err != nil || on != 0 {
		return err
	}
	for _, o := range keepalive {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set keepalive: %w", err)
		}
	}
	return nil
}
