//go:build !linux

package probe

import "net"

// Taken is known on Linux only.
func Taken(net.Conn) (taken, known bool) { return false, false }
