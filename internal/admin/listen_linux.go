package admin

import (
	"context"
	"fmt"
	"net"
	"syscall"
)

// listenOwnerOnly makes the file with its final mode: on Linux bind(2) takes
// it from the socket's own inode, less the umask (unix_bind in
// net/unix/af_unix.c). A chmod afterwards would leave a moment for others.
func listenOwnerOnly(ctx context.Context, path string) (net.Listener, error) {
	lc := net.ListenConfig{Control: setMode}
	return lc.Listen(ctx, "unix", path)
}

// setMode runs between socket(2) and bind(2).
func setMode(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), 0o600) })
	if err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("fchmod: %w", failed)
	}
	return nil
}
