package direct

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

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
	if err := unix.SetNonblock(in.listener, false); err != nil {
		unix.Close(in.listener)
		return fmt.Errorf("make the listener block: %w", err)
	}
	return nil
}

// Descriptor is the listening socket, for the child. It stays open until Close.
func (in *Inherited) Descriptor() int { return in.listener }

// Addr is where clients connect.
func (in *Inherited) Addr() net.Addr { return in.addr }

// Serve wakes the child whenever clients wait and no child is there to take
// them. It ends with ctx. Clients who waited for a start that failed are reset.
func (in *Inherited) Serve(ctx context.Context, wake Wake) {
	unhook := context.AfterFunc(ctx, in.ring)
	defer unhook()
	for {
		in.awaitClient()
		if ctx.Err() != nil {
			return
		}
		over, err := wake(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			in.turnAway()
			continue
		}
		select {
		case <-over:
		case <-ctx.Done():
			return
		}
	}
}

// ring ends the wait for clients, for good.
func (in *Inherited) ring() { _, _ = in.bell.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// awaitClient returns when a client waits, or the bell has rung. It holds a thread:
// a listener that the runtime's poller knew would wake us for every client of
// the child as well.
func (in *Inherited) awaitClient() {
	fds := []unix.PollFd{
		{Fd: int32(in.listener), Events: unix.POLLIN},
		{Fd: int32(in.bell.Fd()), Events: unix.POLLIN},
	}
	for {
		if _, err := unix.Poll(fds, -1); err != unix.EINTR {
			return
		}
	}
}

// turnAway resets those who wait now. A child that is being stopped may be
// quicker, so the socket must not block meanwhile.
func (in *Inherited) turnAway() {
	waiting, err := in.waiting()
	if err != nil || unix.SetNonblock(in.listener, true) != nil {
		return
	}
	defer unix.SetNonblock(in.listener, false) //nolint:errcheck // it could be set before
	for ; waiting > 0; waiting-- {
		fd, _, err := unix.Accept4(in.listener, unix.SOCK_CLOEXEC)
		switch {
		case err == nil:
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			unix.Close(fd)
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
			return
		}
	}
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
