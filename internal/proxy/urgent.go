package proxy

import "syscall"

// keepUrgent makes a socket leave urgent bytes in the stream, where they only
// lose their mark. Without SO_OOBINLINE (socket(7)) the kernel takes them out,
// and keeps none but the last. What is accepted has it from its listener.
func keepUrgent(c syscall.RawConn) error {
	var err error
	closed := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_OOBINLINE, 1)
	})
	if closed != nil {
		return closed
	}
	return err
}

// keepUrgentOf is keepUrgent for what l is going to accept: clients may wait
// for long until anything else is done with them. It fails for a listener that
// is closed, which then tells so itself.
func keepUrgentOf(l any) {
	sc, ok := l.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := sc.SyscallConn(); err == nil {
		_ = keepUrgent(raw)
	}
}
