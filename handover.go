package main

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket is a listening socket that one service hands to another. Clients can
// connect to it all the time; they wait while nobody takes them.
type socket struct {
	fd   int
	path string      // of the unix socket, "" for TCP
	own  os.FileInfo // of its file
}

// share returns the service's listening socket. It stays the service's, too.
// Nothing that both would notice is changed, in particular not whether it blocks.
func (v *service) share() (*socket, error) {
	b := v.bound.Load()
	s := &socket{path: b.path, own: b.own}
	if v.heir != nil {
		return s, s.duplicate(uintptr(v.heir.Descriptor()))
	}
	l, ok := b.Listener.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%T has no descriptor", b.Listener)
	}
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	inner := raw.Control(func(fd uintptr) { err = s.duplicate(fd) })
	if inner != nil {
		return nil, inner
	}
	return s, err
}

func (s *socket) duplicate(fd uintptr) (err error) {
	s.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
	return os.NewSyscallError("fcntl", err)
}

// listen makes a binding of the socket, whose former owner must be done with it.
func (s *socket) listen() (*binding, error) {
	f := os.NewFile(uintptr(s.fd), "listener")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over a listener: %w", err)
	}
	return &binding{Listener: l, path: s.path, own: s.own}, nil
}

// close gives the socket up.
func (s *socket) close() {
	b := &binding{path: s.path, own: s.own}
	b.unlink()
	s.forget()
}

// forget leaves the socket to whoever it was shared with.
func (s *socket) forget() { unix.Close(s.fd) }
