package main

import (
	"fmt"

	"tiproxy/internal/config"
)

// inUseHint says who holds an address that is in use, as far as it can be
// found out, and what to do about it.
func inUseHint(a config.Addr) string {
	if a.Network == "unix" {
		return ": somebody listens there, stop them or write another path"
	}
	if a.Port == 0 {
		return ": no port is free (net.ipv4.ip_local_port_range)"
	}
	who := ""
	if pid, name := portHolder(a.Port); pid != 0 {
		who = fmt.Sprintf(" by process %d (%s)", pid, name)
	}
	return who + ": stop it, or write another port, or 0 for any free one"
}
