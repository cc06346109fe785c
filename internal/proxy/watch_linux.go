package proxy

import (
	"context"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watcher watches a client that is held for its departure, without taking a
// byte. Its goroutine ends with stop at the latest.
type watcher struct {
	client net.Conn
	raw    syscall.RawConn
	leave  context.CancelCauseFunc
	done   chan struct{}
}

// watchDeparture calls leave with errClientLeft when the client departs.
func watchDeparture(client net.Conn, leave context.CancelCauseFunc) (*watcher, error) {
	raw, err := rawOf(client)
	if err != nil {
		return nil, err
	}
	w := &watcher{client: client, raw: raw, leave: leave, done: make(chan struct{})}
	go w.run()
	return w, nil
}

// run waits for the departure. The runtime's poller tells every change of the
// socket once, so each one is followed by a look.
func (w *watcher) run() {
	defer close(w.done)
	if w.raw.Read(w.look) == nil {
		w.leave(errClientLeft)
	}
}

// look reports whether the client has departed.
func (w *watcher) look(fd uintptr) bool { return peerLeft(int(fd), isTCP(w.client)) }

// stop ends the watch. The client's socket is as it was.
func (w *watcher) stop() {
	w.client.SetReadDeadline(time.Unix(1, 0))
	<-w.done
	w.client.SetReadDeadline(time.Time{})
}

// departed reports whether the client has departed already.
func departed(client net.Conn) bool {
	raw, err := rawOf(client)
	if err != nil {
		return false
	}
	left := false
	err = raw.Control(func(fd uintptr) { left = peerLeft(int(fd), isTCP(client)) })
	return left || err != nil
}

// peerLeft reports whether the peer of a socket on which nothing was written
// has reset the connection or, on a unix socket, has closed it and left no
// bytes behind. A half-close shows as POLLIN and POLLRDHUP and is no departure.
func peerLeft(fd int, tcp bool) bool {
	ev := pollEvents(fd)
	if tcp || ev&unix.POLLERR != 0 {
		return ev&(unix.POLLERR|unix.POLLHUP) != 0
	}
	if ev&unix.POLLHUP == 0 {
		return false
	}
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	return err == nil && n == 0
}

// isTCP reports whether the connection is one of TCP.
func isTCP(nc net.Conn) bool {
	_, ok := nc.(*net.TCPConn)
	return ok
}
