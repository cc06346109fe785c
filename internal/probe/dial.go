package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dialFirst   = 5 * time.Millisecond   // pause after the first failed attempt
	dialLast    = 250 * time.Millisecond // the longest pause
	dialTimeout = time.Second            // for each attempt
)

// Dial recognises readiness by connecting, and closes the connection at once.
// It cannot tell the child from anybody else who listens on Dest. Its zero
// value but for Dest is ready for use, also by several goroutines.
type Dial struct {
	Dest Dest
}

// Before returns nil: who may listen on Dest is not Dial's business.
func (d *Dial) Before(context.Context) error { return nil }

// Wait connects again and again, 5 ms to 250 ms apart, until it succeeds, and
// returns the address that took the connection. When ctx ends first, the error
// wraps its cause and the last attempt's error.
func (d *Dial) Wait(ctx context.Context, _ Tree) (net.Addr, error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	var last error
	for wait := dialFirst; ; wait = min(wait*2, dialLast) {
		addr, err := d.attempt(ctx)
		if err == nil {
			return addr, nil
		}
		// An attempt that ctx cut short says nothing about the child.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if !sleep(ctx, timer, wait) {
			return nil, fmt.Errorf("nothing takes connections on %s: %w (last attempt: %w)", d.Dest, context.Cause(ctx), last)
		}
	}
}

// attempt connects to each address of the destination, until one takes it.
func (d *Dial) attempt(ctx context.Context) (net.Addr, error) {
	if d.Dest.Network == "unix" {
		addr := &net.UnixAddr{Net: "unix", Name: d.Dest.Path}
		return addr, connect(ctx, addr, nil)
	}
	all, err := d.resolve(ctx)
	if err != nil {
		return nil, err
	}
	var failed error
	for _, ap := range all {
		addr := net.TCPAddrFromAddrPort(ap)
		err := connect(ctx, addr, notFromPort(ap))
		if err == nil {
			return addr, nil
		}
		if failed != nil {
			err = fmt.Errorf("%w; %w", failed, err)
		}
		failed = err
	}
	return nil, failed
}

// resolve looks the destination up afresh for every attempt: the name of a
// container may not exist before the container does.
func (d *Dial) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return d.Dest.resolve(ctx)
}

// connect makes one connection to addr and closes it.
func connect(ctx context.Context, addr net.Addr, control controlFunc) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := open(ctx, addr, control)
	if err != nil {
		return err
	}
	return conn.Close()
}

// controlFunc is a net.Dialer's Control.
type controlFunc = func(network, address string, c syscall.RawConn) error

// open makes one connection to addr.
func open(ctx context.Context, addr net.Addr, control controlFunc) (net.Conn, error) {
	dialer := net.Dialer{KeepAlive: -1, Control: control}
	dialer.SetMultipathTCP(false)
	return dialer.DialContext(ctx, addr.Network(), addr.String())
}

// errOwnPort ends an attempt that would have come from the destination's port.
var errOwnPort = errors.New("the kernel chose dest's own port to connect from")

// notFromPort returns a net.Dialer's Control that never lets a connection come
// from the destination's port. To connect to a closed port in the ephemeral
// range succeeds when the kernel happens to choose that very port to connect
// from (RFC 9293, section 3.5, simultaneous open): a socket connected to
// itself, which net.Dial hides, but which keeps the child from binding for the
// 60 s of its TIME_WAIT. So the source port is chosen by bind(2) and looked at
// before anything is sent.
func notFromPort(dest netip.AddrPort) controlFunc {
	var from unix.Sockaddr = &unix.SockaddrInet4{}
	if dest.Addr().Is6() {
		from = &unix.SockaddrInet6{}
	}
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) { err = bindElsewhere(int(fd), from, dest.Port()) })
		return errors.Join(ctlErr, err)
	}
}

// bindElsewhere binds fd to a free port of the kernel's choice. It fails with
// errOwnPort when the choice is the port not.
func bindElsewhere(fd int, from unix.Sockaddr, not uint16) error {
	if err := unix.Bind(fd, from); err != nil {
		return fmt.Errorf("bind the probe's source port: %w", err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("ask for the probe's source port: %w", err)
	}
	if portOf(bound) == not {
		return errOwnPort
	}
	return nil
}

func portOf(sa unix.Sockaddr) uint16 {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port)
	case *unix.SockaddrInet6:
		return uint16(sa.Port)
	}
	return 0
}
