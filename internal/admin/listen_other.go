//go:build !linux

package admin

import (
	"context"
	"net"
	"syscall"
)

// listenOwnerOnly narrows the umask while the file is made. That is the whole
// process's: it must be called before anything else makes files or processes.
func listenOwnerOnly(ctx context.Context, path string) (net.Listener, error) {
	defer syscall.Umask(syscall.Umask(0o177))
	var lc net.ListenConfig
	return lc.Listen(ctx, "unix", path)
}
