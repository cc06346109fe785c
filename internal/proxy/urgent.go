package proxy

import (
	"os"
	"syscall"
)

// inlineUrgent makes a socket leave urgent bytes in the stream, where they only
// lose their mark. Without SO_OOBINLINE (socket(7)) the kernel takes them out,
// and keeps none but the last.
func inlineUrgent(fd int) error {
	return os.NewSyscallError("setsockopt", syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_OOBINLINE, 1))
}
