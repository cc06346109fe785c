package main

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// emptyTime bounds how long those who have connected already are waited for. They
// may have to wait for a place themselves.
const emptyTime = 200 * time.Millisecond

// takeTheRest waits until everybody who has connected to l is accepted, so that
// closing it resets nobody. Whoever comes meanwhile is not heard, and tries again a
// second later, when somebody else may have the address.
func takeTheRest(l net.Listener) {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return
	}
	c, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	waiting := false
	if c.Control(func(fd uintptr) { waiting = refuse(int(fd)) == nil }) != nil {
		return
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(emptyTime); waiting && time.Now().Before(limit); <-tick.C {
		if c.Control(func(fd uintptr) { waiting = hasWaiting(int(fd)) }) != nil {
			return
		}
	}
}

// refuse has a listener drop what would begin a connection. What a filter of a TCP
// socket sees begins with the TCP header, and its flags are in byte 13 (RFC 9293).
func refuse(fd int) error {
	const flags, syn, ack = 13, 0x02, 0x10
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)},
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog)
}

// hasWaiting reports whether somebody waits to be accepted.
func hasWaiting(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return n > 0 && err == nil
}
