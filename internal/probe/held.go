package probe

import (
	"errors"
	"net/netip"
)

// Held is a listening socket and a descriptor by which the tree has it.
type Held struct {
	PID, FD int
	Inode   uint64
	Addr    netip.AddrPort // that it is bound to
}

// ErrNotProven is why sockets are not named that are the tree's for all that
// can be seen, but whose owner may not be looked up.
var ErrNotProven = errors.New("the child's descriptors may not be looked into, which needs CAP_SYS_PTRACE, and /proc without hidepid")
