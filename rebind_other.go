//go:build !linux

package main

import "net"

// takeTheRest does nothing here: who has connected but is not accepted yet is reset.
func takeTheRest(net.Listener) {}
