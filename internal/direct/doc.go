// Package direct takes tiproxy out of the path: while a child is ready, the
// kernel itself gives new connections to tiproxy's address straight to the
// child's own listening sockets.
//
// What is always true: only sockets that the caller names as the child's are
// ever led to. Nothing of ours keeps them alive, so the kernel forgets one as
// soon as the child closes it or ends, and the next client reaches tiproxy's
// own listener. Nothing outlives this process: no program, map or link is
// pinned. Leading clients to the child and the decision to stop it exclude each
// other (Retire). The package carries no byte and starts and stops nothing.
package direct

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Socket is a listening socket of the child: descriptor FD of process PID.
type Socket struct {
	PID, FD int
	Inode   uint64         // proof that the descriptor still is that socket
	Addr    netip.AddrPort // that it is bound to
}

// Pair is a TCP connection as one of its ends sees it.
type Pair struct{ Local, Remote netip.AddrPort }

// Config is what a Path needs to know.
type Config struct {
	// Listener is where clients connect. It stays the caller's.
	Listener *net.TCPListener
	// Idle is the idle time of the service; 0 means that no child is stopped
	// for being idle. It says how often it is worth looking.
	Idle time.Duration
	// Hold keeps life gen awake until release is called. It reports false
	// when that life is not ready any more.
	Hold func(gen uint64) (release func(), ok bool)
	// Carried returns the connections that the caller itself carries, from
	// the side of the listener and of the child: they are none of ours.
	Carried func() map[Pair]bool
	// Log takes what keeps a life off this path; nil discards it.
	Log *slog.Logger
}

// Finder returns the sockets that are to be led to now. It is asked again when
// there may be others.
type Finder func(ctx context.Context) ([]Socket, error)

// Stats is what a Path has counted.
type Stats struct {
	Begun uint64 // handshakes that were led to the child, repeated ones included
	Now   int    // connections to the child that exist and nobody else carries
}

// Environ returns a child's environment in which a program written in Go opens
// plain TCP sockets. Since Go 1.24 its listeners are MPTCP sockets, which
// cannot be led to (GODEBUG in the documentation of Go).
func Environ(env []string) []string {
	const name, off = "GODEBUG=", "multipathtcp=0"
	out, set := slices.Clone(env), off
	for i, kv := range slices.Backward(out) {
		if old, ok := strings.CutPrefix(kv, name); ok {
			if old != "" {
				set = old + "," + off // of several settings the last one counts
			}
			out[i] = name + set
			return out
		}
	}
	return append(out, name+set)
}
