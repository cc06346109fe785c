//go:build !linux && !darwin && !freebsd

package admin

import (
	"errors"
	"net"
)

// peerUID is not known here: the socket's mode alone keeps others out.
func peerUID(*net.UnixConn) (int, error) { return 0, errors.ErrUnsupported }
