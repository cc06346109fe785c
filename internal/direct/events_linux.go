package direct

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// events tells when connections of some local ports end, which the kernel says
// to whoever asks (SKNLGRP_INET_TCP_DESTROY; `ss -E` shows it). A filter in the
// kernel keeps the ends of all others from waking us.
type events struct {
	file  *os.File
	fresh atomic.Int32  // connections seen to end since seen was called
	flood atomic.Bool   // there were too many: nothing is read any more
	news  chan struct{} // has a value when something happened since it was emptied
	done  chan struct{} // closed when read has ended
}

// mostEvents is how many connections may end between two looks before it is
// dearer to be told of each (some 20 µs here, and more in the kernel) than to
// look every now and then.
const mostEvents = 30

// subscribe begins to listen. close ends it.
func subscribe(ports []uint16) (*events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open netlink sock_diag: %w", err)
	}
	if err := join(fd, ports); err != nil {
		unix.Close(fd)
		return nil, err
	}
	e := &events{
		file: os.NewFile(uintptr(fd), "|sock_diag"),
		news: make(chan struct{}, 1), done: make(chan struct{}),
	}
	go e.read()
	return e, nil
}

// join: the filter first, so that nothing else arrives.
func join(fd int, ports []uint16) error {
	filter := portFilter(ports)
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("filter the ends of connections: %w", err)
	}
	groups := uint32(1<<(unix.SKNLGRP_INET_TCP_DESTROY-1) | 1<<(unix.SKNLGRP_INET6_TCP_DESTROY-1))
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return fmt.Errorf("ask for the ends of connections: %w", err)
	}
	return nil
}

// portFilter is a program for SO_ATTACH_FILTER in socket(7) that lets messages
// about sockets of these ports pass.
func portFilter(ports []uint16) []unix.SockFilter {
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: offsetSourcePort}}
	for i, port := range ports {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(port), Jt: uint8(len(ports) - i)})
	}
	return append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)},
	)
}

// seen is called by who has looked what the events so far have led to.
func (e *events) seen() { e.fresh.Store(0) }

// read takes the events. It ends with close, or with a flood.
func (e *events) read() {
	defer close(e.done)
	for buf := make([]byte, 4<<10); ; {
		_, err := e.file.Read(buf)
		switch {
		case err == nil, errors.Is(err, unix.ENOBUFS): // some were lost: who looks sees what they led to
			if e.fresh.Add(1) > mostEvents {
				e.flood.Store(true)
			}
		default:
			return
		}
		poke(e.news)
		if e.flood.Load() {
			return
		}
	}
}

func (e *events) close() {
	e.file.Close() // wakes read
	<-e.done
}
