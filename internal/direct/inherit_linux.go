package direct

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Inherited is a listener that is handed to the child, who takes clients from it
// by itself. It stays ours, too, so clients that nobody has taken yet outlive
// the child. While there is no child, Serve waits for clients without taking one.
type Inherited struct {
	*Path
	listener int      // a listening socket; blocking, as programs expect it
	bell     *os.File // an eventfd that ends a wait
	addr     net.Addr
	name     unix.Sockaddr // addr
}

// Wake starts the child for the clients that wait, or waits for one who is
// there already. over is closed when that child has ended.
type Wake func(ctx context.Context) (over <-chan struct{}, err error)

// Inherit returns an Inherited in place of cfg.Listener, which the caller may
// close: nothing is to take clients from it any more.
func Inherit(cfg Config) (*Inherited, error) {
	at, err := placeOf(cfg.Listener)
	if err != nil {
		return nil, err
	}
	if _, err := census([]place{at}, nil, 1); err != nil {
		return nil, err
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	in := &Inherited{bell: os.NewFile(uintptr(bell), "|bell"), addr: cfg.Listener.Addr(), listener: -1}
	in.Path = &Path{cfg: cfg, log: cfg.Log, at: at, places: []place{at}}
	in.rest.Store(int64(cfg.Idle))
	if in.log == nil {
		in.log = slog.New(slog.DiscardHandler)
	}
	if err := in.take(cfg.Listener); err != nil {
		in.bell.Close()
		return nil, err
	}
	return in, nil
}

// take makes a descriptor of our own. Go's would be woken for every client that
// the child takes.
func (in *Inherited) take(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		in.listener, inner = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
	})
	if err := errors.Join(err, inner); err != nil {
		return fmt.Errorf("duplicate the listener: %w", err)
	}
	if in.name, err = unix.Getsockname(in.listener); err == nil {
		err = in.Renew()
	}
	if err != nil {
		unix.Close(in.listener)
	}
	return err
}

// Descriptor is the listening socket, for the child. It stays open until Close.
func (in *Inherited) Descriptor() int { return in.listener }

// Addr is where clients connect.
func (in *Inherited) Addr() net.Addr { return in.addr }

// Serve wakes the child whenever clients wait and no child is there to take
// them. It returns nil when ctx ends, and an error if nobody can connect any more.
// Clients who waited for a start that failed are reset.
func (in *Inherited) Serve(ctx context.Context, wake Wake) error {
	unhook := context.AfterFunc(ctx, in.ring)
	defer unhook()
	for {
		err := in.awaitClient()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		over, err := wake(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			in.TurnAway()
			continue
		}
		select {
		case <-over:
		case <-ctx.Done():
			return nil
		}
	}
}

// ring ends the wait for clients, for good.
func (in *Inherited) ring() { _, _ = in.bell.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// awaitClient returns when a client waits, or the bell has rung. It holds a thread:
// a listener that the runtime's poller knew would wake us for every client of
// the child as well.
func (in *Inherited) awaitClient() error {
	fds := []unix.PollFd{
		{Fd: int32(in.listener), Events: unix.POLLIN},
		{Fd: int32(in.bell.Fd()), Events: unix.POLLIN},
	}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("poll", err)
		case fds[0].Revents&^unix.POLLIN == 0:
			return nil
		default: // a child has shut it down
			if err := in.Renew(); err != nil {
				return err
			}
		}
	}
}

// mostWaiting is the longest backlog that Go asks for; the kernel gives as much
// of it as net.core.somaxconn allows.
const mostWaiting = 1<<16 - 1

// Renew makes the listener for the next child what it was for the first one,
// whatever children have done to the socket that they share with us: it blocks,
// its queue is long, and it listens. shutdown(2) ends that for everybody who has
// the socket; a port that the kernel chose is given back then, and is taken again.
func (in *Inherited) Renew() error {
	if err := unix.SetNonblock(in.listener, false); err != nil {
		return fmt.Errorf("make the listener block: %w", err)
	}
	listens, err := unix.GetsockoptInt(in.listener, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err == nil && listens == 0 {
		err = in.bindAgain()
	}
	if err == nil {
		err = unix.Listen(in.listener, mostWaiting)
	}
	if err != nil {
		return fmt.Errorf("listen again on %s, which the child has shut down: %w", in.addr, err)
	}
	return nil
}

// bindAgain makes a socket that was shut down, perhaps twice, one that was just
// bound: connect(2) to an address of AF_UNSPEC takes back what a shutdown has left.
func (in *Inherited) bindAgain() error {
	nowhere := unix.RawSockaddrInet4{Family: unix.AF_UNSPEC}
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(in.listener), uintptr(unsafe.Pointer(&nowhere)), unsafe.Sizeof(nowhere))
	if errno != 0 {
		return os.NewSyscallError("connect", errno)
	}
	if err := unix.Bind(in.listener, in.name); err != unix.EINVAL { // that is what it has one means: bind(2)
		return err
	}
	return nil
}

// Refuse lets no new client in, for good, though the child goes on with those in
// the queue: only packets that have passed no router and began with the highest
// count are taken from now on (IP_MINTTL in ip(7)), which is nobody's, so whoever
// comes tries again until the listener is closed, or somebody else's. A filter would
// need rights; closing the socket does nothing while the child has it, too, and
// shutting it down would surprise the child.
func (in *Inherited) Refuse() error {
	const highest = 255
	if err := in.setLeast(highest); err != nil {
		return fmt.Errorf("keep clients from the listener: %w", err)
	}
	return nil
}

// Admit undoes Refuse, for whoever has the listener after this Inherited. Clients
// who have tried meanwhile get in with their next try.
func (in *Inherited) Admit() error {
	if err := in.setLeast(0); err != nil {
		return fmt.Errorf("let clients in again: %w", err)
	}
	return nil
}

// setLeast sets the count that packets must have left.
func (in *Inherited) setLeast(count int) error {
	err := unix.SetsockoptInt(in.listener, unix.IPPROTO_IP, unix.IP_MINTTL, count)
	if in.at.addr.Addr().Is6() {
		err = errors.Join(err, unix.SetsockoptInt(in.listener, unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, count))
	}
	return err
}

// TurnAway resets those who wait now. A child that is being stopped may be
// quicker, so the socket must not block meanwhile.
func (in *Inherited) TurnAway() {
	waiting, err := in.waiting()
	if err != nil || waiting == 0 {
		return
	}
	defer in.withoutBlocking()()
	for ; waiting > 0; waiting-- {
		fd, _, err := unix.Accept4(in.listener, unix.SOCK_CLOEXEC)
		switch {
		case err == nil:
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			unix.Close(fd)
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.EINVAL):
			return
		}
	}
}

// withoutBlocking has the socket not block until the function it returns is
// called. A child that has set that itself relies on it, so it stays set then.
func (in *Inherited) withoutBlocking() (restore func()) {
	flags, err := unix.FcntlInt(uintptr(in.listener), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		return func() {}
	}
	_ = unix.SetNonblock(in.listener, true) // cannot fail on a socket of ours
	return func() { _ = unix.SetNonblock(in.listener, false) }
}

// waiting is how many clients wait to be taken: of a listening socket
// tcpi_unacked is the length of its accept queue (tcp_get_info in tcp.c).
func (in *Inherited) waiting() (uint32, error) {
	info, err := unix.GetsockoptTCPInfo(in.listener, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, fmt.Errorf("getsockopt TCP_INFO: %w", err)
	}
	return info.Unacked, nil
}

// The pauses of AwaitTaken: a twentieth of the time that has passed, within these.
const (
	takenPauseMin = time.Millisecond
	takenPauseMax = 100 * time.Millisecond
)

// AwaitTaken waits until the child takes clients: it has taken one, or none is
// left that waits. When ctx ends first, the error wraps its cause.
func (in *Inherited) AwaitTaken(ctx context.Context) error {
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		taken, err := in.taken()
		if taken {
			return nil
		}
		timer.Reset(min(max(time.Since(began)/20, takenPauseMin), takenPauseMax))
		select {
		case <-timer.C:
		case <-ctx.Done():
			if err != nil {
				return fmt.Errorf("%w: %w", context.Cause(ctx), err)
			}
			return fmt.Errorf("it has taken no client from the socket it was handed (LISTEN_FDS): %w", context.Cause(ctx))
		}
	}
}

// Taken reports whether the child has taken a client.
func (in *Inherited) Taken() bool {
	n, err := countWhere([]place{in.at}, 1, func(c connection) bool { return c.inode != 0 })
	return n > 0 && err == nil
}

// taken looks whether a process has a client, or none waits.
func (in *Inherited) taken() (bool, error) {
	if n, err := in.waiting(); n == 0 || err != nil {
		return err == nil, err
	}
	return in.Taken(), nil
}

// Close gives the listener up. Clients who still wait are reset, unless the
// child has it, too. Serve must have ended.
func (in *Inherited) Close() {
	in.Path.Close()
	unix.Close(in.listener)
	in.bell.Close()
}
