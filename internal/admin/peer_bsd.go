//go:build darwin || freebsd

package admin

import (
	"net"

	"golang.org/x/sys/unix"
)

// solLocal is SOL_LOCAL of sys/un.h, the level of LOCAL_PEERCRED.
const solLocal = 0

// peerUID is the user who made the connection, as it was then: LOCAL_PEERCRED in
// unix(4).
func peerUID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Xucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptXucred(int(fd), solLocal, unix.LOCAL_PEERCRED)
	})
	if err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	return int(cred.Uid), nil
}
