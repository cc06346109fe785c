//go:build !linux

package proxy

import (
	"errors"
	"net"
	"syscall"
)

// ListenConfig is how to listen for the clients of a Server.
func ListenConfig() net.ListenConfig {
	lc := net.ListenConfig{Control: inlineUrgentOf}
	lc.SetMultipathTCP(false)
	return lc
}

// newDialer returns what dials the child. Keepalive is on (15 s, then 9 probes
// 15 s apart), which is what package net does unasked.
func newDialer() *net.Dialer {
	return &net.Dialer{Control: inlineUrgentOf}
}

// inlineUrgentOf is inlineUrgent for a socket that package net has made.
func inlineUrgentOf(network, _ string, c syscall.RawConn) error {
	if network == "unix" {
		return nil
	}
	var err error
	return errors.Join(c.Control(func(fd uintptr) { err = inlineUrgent(int(fd)) }), err)
}
