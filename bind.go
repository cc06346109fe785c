package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"tiproxy/internal/config"
	"tiproxy/internal/proxy"
)

// staleTimeout bounds the question whether somebody listens on a unix socket.
const staleTimeout = time.Second

// portTries is how often a free port is taken anew when the kernel offers the
// very one on which the child is going to listen.
const portTries = 8

// binding is a listener and what has to be tidied up after it.
type binding struct {
	net.Listener
	path string      // of the unix socket, "" for TCP
	own  os.FileInfo // of the unix socket's file as we made it
}

// bind opens the listener. Its errors say who holds the address, where that
// can be found out, and what would be right.
func bind(ctx context.Context, s config.Service) (*binding, error) {
	if s.Bind.Network == "unix" {
		return bindUnix(ctx, s.Bind, listenUnix)
	}
	for range portTries {
		l, err := bindTCP(ctx, s.Bind, nil)
		if err != nil {
			return nil, err
		}
		taken := s.Bind
		taken.Port = uint16(l.Addr().(*net.TCPAddr).Port)
		if s.Bind.Port != 0 || !config.SamePlace(taken, s.Dest) {
			return &binding{Listener: l}, nil
		}
		// Held open until a better one is found, so that the next try gets
		// another port.
		defer l.Close()
	}
	return nil, fmt.Errorf("cannot listen on %s: the only free port is that of --dest: write another one", s.Bind)
}

// bindTCP listens. To Go 0.0.0.0 means IPv6 as well, to everybody else it does not.
// prepare, if any, is called with the socket before it has its address.
func bindTCP(ctx context.Context, a config.Addr, prepare func(network, address string, c syscall.RawConn) error) (net.Listener, error) {
	network := "tcp"
	if ip, err := netip.ParseAddr(a.Host); err == nil && ip.Is4() {
		network = "tcp4"
	}
	lc := proxy.ListenConfig()
	if usual := lc.Control; prepare != nil {
		lc.Control = func(network, address string, c syscall.RawConn) error {
			return errors.Join(usual(network, address, c), prepare(network, address, c))
		}
	}
	l, err := lc.Listen(ctx, network, a.Dial())
	if err != nil {
		return nil, explainBind(a, err)
	}
	return l, nil
}

// explainBind puts a failed bind(2) into words.
func explainBind(a config.Addr, err error) error {
	var sys syscall.Errno
	if !errors.As(err, &sys) {
		return fmt.Errorf("cannot listen on %s: %w", a, err)
	}
	var hint string
	switch sys {
	case syscall.EADDRINUSE:
		hint = inUseHint(a)
	case syscall.EADDRNOTAVAIL:
		hint = ": no interface of this machine has that address"
	case syscall.EACCES:
		hint = ": ports below 1024 need root or CAP_NET_BIND_SERVICE"
		if a.Network == "unix" {
			hint = ": this user may not create the socket there"
		}
	}
	return fmt.Errorf("cannot listen on %s: %w%s", a, sys, hint)
}

// bindUnix listens on a unix socket. The file of a program that is gone is
// replaced; anything else in its place is left alone.
func bindUnix(ctx context.Context, a config.Addr, listen func(context.Context, string) (net.Listener, error)) (*binding, error) {
	if err := clearStale(ctx, a); err != nil {
		return nil, err
	}
	l, err := listen(ctx, a.Path)
	if err != nil {
		return nil, explainBind(a, err)
	}
	// Go would remove whatever has that name by then.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	own, err := os.Lstat(a.Path)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot listen on %s: %w", a, err)
	}
	return &binding{Listener: l, path: a.Path, own: own}, nil
}

// listenUnix makes a socket that the umask opens to others.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "unix", path)
}

// clearStale removes the socket that an earlier program left at a. It is an
// error when somebody still listens there, or when it is no socket.
func clearStale(ctx context.Context, a config.Addr) error {
	before, err := os.Lstat(a.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w", a, err)
	}
	if before.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("cannot listen on %s: there is something that is not a socket: remove it or write another path", a)
	}
	d := net.Dialer{Timeout: staleTimeout}
	conn, err := d.DialContext(ctx, "unix", a.Path)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		// Connected, or a full backlog, or no permission: somebody's.
		return explainBind(a, syscall.EADDRINUSE)
	}
	// Whoever replaced it meanwhile is alive.
	if now, err := os.Lstat(a.Path); err != nil || !os.SameFile(before, now) {
		return explainBind(a, syscall.EADDRINUSE)
	}
	if err := os.Remove(a.Path); err != nil {
		return fmt.Errorf("cannot replace the socket of a program that is gone: %w", err)
	}
	return nil
}

// unlink removes the unix socket's file if it is still the one we made. It is
// called while the listener is open, which keeps the kernel from giving the
// same inode number to a file of somebody else.
func (b *binding) unlink() {
	if b.path == "" {
		return
	}
	if now, err := os.Lstat(b.path); err == nil && os.SameFile(b.own, now) {
		os.Remove(b.path)
	}
	b.path = ""
}

// address is where b listens, as people write it.
func (b *binding) address() string {
	if b.Addr().Network() == "unix" {
		return "unix:" + b.Addr().String()
	}
	return b.Addr().String()
}
