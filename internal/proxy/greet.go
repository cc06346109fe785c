package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// headerTime is how long a trusted peer may take to say for whom it connects.
// It sends the header at once, in the same breath as the connection.
const headerTime = 10 * time.Second

var (
	errTurnedAway = errors.New("the client is not served")
	errSilent     = errors.New("the client has nothing to say")
	errQuiet      = errors.New("the client has said nothing for too long")
)

// greet finds out who the client is, where its peer may say so, and whether it
// is served at all, and waits for its first word where that is asked for. Only
// then does the client wait for the child: those who say nothing take no place
// away from those who do.
func (c *conn) greet() error {
	if c.greeted {
		return nil
	}
	c.greeted = true
	if c.trusted() {
		if err := c.readHeader(); err != nil {
			return err
		}
		if why := c.admit(); why != "" {
			c.complain(why)
			return errTurnedAway
		}
	}
	if c.srv.config().WakeOnData {
		if err := c.awaitFirstByte(); err != nil {
			return err
		}
	}
	return c.takeSeat()
}

// trusted reports whether the client's peer is one that says for whom it
// connects.
func (c *conn) trusted() bool {
	if len(c.srv.config().TrustHeader) == 0 {
		return false
	}
	ip := addrOf(c.client.RemoteAddr())
	return ip.IsValid() && slices.ContainsFunc(c.srv.config().TrustHeader, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// readHeader takes the header from the client's socket.
func (c *conn) readHeader() error {
	h, err := readHeader(c.srv.held, c.client, headerTime)
	if errors.Is(err, errHeaderLate) || errors.Is(err, errHeaderWrong) {
		c.complain(verdict(err.Error()))
		return errTurnedAway
	}
	c.header = h
	return err
}

// addr returns the client's IP address: what its peer says it is, or else the
// peer's own. It is invalid where there is none.
func (c *conn) addr() netip.Addr {
	if c.header.source.IsValid() {
		return c.header.source.Addr()
	}
	return addrOf(c.client.RemoteAddr())
}

// name returns the client's address for people.
func (c *conn) name() string {
	if c.header.source.IsValid() {
		return c.header.source.String()
	}
	return name(c.client)
}

// admit counts the client among those of its source, or says why it is not
// served.
func (c *conn) admit() verdict {
	ip := c.addr()
	admission := c.srv.config().Admission
	if why := admission.rejects(ip); why != "" {
		return why
	}
	counted, ok := c.srv.sources.enter(ip, admission.PerSource)
	if !ok {
		return tooMany
	}
	c.counted = counted
	return ""
}

// complain counts and logs that the client is turned away.
func (c *conn) complain(why verdict) {
	c.srv.complaints.about(c.srv.log, c.addr(), "client refused", "reason", string(why))
}

// awaitFirstByte waits until the client has said something, without taking it.
// A client that ends its direction before that never will.
func (c *conn) awaitFirstByte() error {
	raw, err := rawOf(c.client)
	if err != nil {
		return err
	}
	ctx, cancel := c.silenceAllowed()
	defer cancel()
	unhook := context.AfterFunc(ctx, func() { c.client.SetReadDeadline(time.Unix(1, 0)) })
	var got error
	err = raw.Read(func(fd uintptr) bool {
		got = peekByte(int(fd))
		return got != unix.EAGAIN
	})
	if !unhook() {
		return context.Cause(ctx)
	}
	c.client.SetReadDeadline(time.Time{})
	if err != nil || got != nil && got != errSilent {
		return errClientLeft
	}
	return got
}

// silenceAllowed returns a context that ends when the client need not be
// waited for any more.
func (c *conn) silenceAllowed() (context.Context, context.CancelFunc) {
	if q := c.srv.config().Quiet; q.After > 0 && q.Close {
		return context.WithTimeoutCause(c.srv.held, q.After, errQuiet)
	}
	return context.WithCancel(c.srv.held)
}

// peekByte returns nil if there is a byte to read, errSilent at the end of the
// stream, EAGAIN if neither, or the socket's error.
func peekByte(fd int) error {
	var b [1]byte
	for {
		n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return errSilent
		default:
			return nil
		}
	}
}

// rawOf returns the raw side of a connection.
func rawOf(nc net.Conn) (syscall.RawConn, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%T has no descriptor", nc)
	}
	return sc.SyscallConn()
}

// introduce tells the child who its client is, where that is asked for. The
// child has the connection by then, or takes it from its backlog soon; the few
// bytes fit into any socket's buffer.
func (c *conn) introduce(up net.Conn) error {
	if c.srv.config().Header == 0 {
		return nil
	}
	b, err := encodeHeader(c.srv.config().Header, c.sourceAddr(), c.destAddr())
	if err != nil {
		return err
	}
	_, err = up.Write(b)
	return err
}

// sourceAddr is the client's address as the child is to see it.
func (c *conn) sourceAddr() net.Addr {
	if c.header.source.IsValid() {
		return net.TCPAddrFromAddrPort(c.header.source)
	}
	return c.client.RemoteAddr()
}

// destAddr is the address that the client has connected to.
func (c *conn) destAddr() net.Addr {
	if c.header.dest.IsValid() {
		return net.TCPAddrFromAddrPort(c.header.dest)
	}
	return c.client.LocalAddr()
}
