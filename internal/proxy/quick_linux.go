package proxy

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls here tell Go's scheduler nothing of the system call that they make.
// They never wait, since the sockets do not block, but a write or a connect to a
// peer on the same machine takes so long (the kernel carries it all the way to
// the peer's socket and wakes the peer) that the scheduler would take the
// processor away from its thread and give it to another one, again and again.
// What takes longer, splice(2) of a megabyte, tells it.

// quickRead is read(2).
func quickRead(fd int, b []byte) (int, error) {
	n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return result(n, e)
}

// quickWrite is write(2). SIGPIPE is for package process.
func quickWrite(fd int, b []byte) (int, error) {
	n, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return result(n, e)
}

// quickConnect is connect(2).
func quickConnect(fd int, to netip.AddrPort) (int, error) {
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], to.Port())
	inNetOrder := binary.NativeEndian.Uint16(port[:])
	if to.Addr().Is4() {
		sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: inNetOrder, Addr: to.Addr().As4()}
		n, _, e := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
		return result(n, e)
	}
	sa := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: inNetOrder, Addr: to.Addr().As16()}
	n, _, e := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	return result(n, e)
}

// result is what a system call has returned, -1 with an error.
func result(n uintptr, e unix.Errno) (int, error) {
	if e != 0 {
		return -1, e
	}
	return int(n), nil
}
