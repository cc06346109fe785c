package proxy

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The keepalive of both legs (tcp(7)): a peer that has vanished is noticed within
// 3 minutes. Package net has the same numbers.
const (
	keepIdle  = 15 // seconds until the first probe
	keepEvery = 15 // seconds between two
	keepCount = 9  // without an answer
)

// ListenConfig is how to listen for the clients of a Server. MPTCP, which Go
// would choose, gains nothing here, and such sockets are shut out of several
// kernel facilities. What connections are to have is set on the listener, from
// which they inherit it, also those that are there before anybody accepts:
// package net would make four system calls for each of them.
func ListenConfig() net.ListenConfig {
	lc := net.ListenConfig{KeepAlive: -1, Control: prepareListener}
	lc.SetMultipathTCP(false)
	return lc
}

// prepareListener sets the options of a socket that is going to listen.
func prepareListener(_, _ string, c syscall.RawConn) error {
	var err error
	return errors.Join(c.Control(func(fd uintptr) { err = prepare(int(fd)) }), err)
}

// prepare sets what both legs have.
func prepare(fd int) error {
	if err := keepAlive(fd); err != nil {
		return err
	}
	return inlineUrgent(fd)
}

// keepAlive turns keepalive on.
func keepAlive(fd int) error {
	for _, o := range [...]struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepIdle},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepEvery},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepCount},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}

// newDialer returns what dials the child. Splice needs plain TCP.
func newDialer() *net.Dialer {
	d := &net.Dialer{KeepAlive: -1, Control: prepareDialed}
	d.SetMultipathTCP(false)
	return d
}

// prepareDialed sets the options of a socket to the child, and connects it.
//
// Within one machine the handshake is over when connect(2) returns, but a socket
// that does not block says EINPROGRESS all the same. Package net would wait for
// the poller then, and ask twice how it went. It calls connect after this
// function; called a second time, connect tells how it went: 0, the error, or
// EALREADY if there is something to wait for.
func prepareDialed(network, address string, c syscall.RawConn) error {
	if network == "unix" {
		return nil
	}
	var err error
	closed := c.Control(func(fd uintptr) {
		if err = prepare(int(fd)); err == nil {
			err = connectEarly(int(fd), address)
		}
	})
	return errors.Join(closed, err)
}

// connectEarly begins to connect, unless it does not understand the address:
// package net's own call is the first one then.
func connectEarly(fd int, address string) error {
	to, notPlain := netip.ParseAddrPort(address)
	if notPlain != nil || to.Addr().Zone() != "" {
		return nil
	}
	switch _, err := quickConnect(fd, to); err {
	case nil, unix.EINPROGRESS, unix.EINTR:
		return nil
	default:
		return os.NewSyscallError("connect", err)
	}
}
