package main

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"tiproxy/internal/config"
)

// rebind opens the listener of a service that stays and is to listen somewhere
// else. The new address may be part of the old one, or the other way round: the
// kernel lets both be open if both sockets say so (SO_REUSEPORT in socket(7)),
// which they do for that moment only, as it would let in other programs of this user.
func (v *service) rebind(ctx context.Context, next config.Service) (*binding, error) {
	old, ok := v.bound.Load().Listener.(syscall.Conn)
	if !ok || next.Bind.Network == "unix" || !overlap(v.config().Bind, next.Bind) {
		return bind(ctx, next)
	}
	if err := sharePort(old, 1); err != nil {
		return bind(ctx, next) // which says what is wrong
	}
	defer sharePort(old, 0) // it is about to be closed
	l, err := bindTCP(ctx, next.Bind, func(_, _ string, c syscall.RawConn) error { return setShared(c, 1) })
	if err != nil {
		return nil, err
	}
	if err := sharePort(l.(*net.TCPListener), 0); err != nil {
		l.Close()
		return nil, err
	}
	return &binding{Listener: l}, nil
}

// sharePort sets whether others may listen where l does.
func sharePort(l syscall.Conn, to int) error {
	c, err := l.SyscallConn()
	if err != nil {
		return err
	}
	return setShared(c, to)
}

func setShared(c syscall.RawConn, to int) (err error) {
	outer := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, to) })
	return errors.Join(outer, os.NewSyscallError("setsockopt", err))
}
