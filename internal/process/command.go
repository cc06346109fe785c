package process

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"tiproxy/internal/probe"
)

// MarkVariable is the environment variable that every process of a child's tree
// inherits and that tells whose tree it is.
const MarkVariable = "TIPROXY_CHILD"

// Command describes the child of one service. The values are taken as they
// are: nothing is looked up, expanded or made absolute here.
type Command struct {
	// Service names the service in the mark of the tree and in warnings.
	Service string
	// Path is the program, absolute.
	Path string
	// Args is the whole argument vector, Args[0] included.
	Args []string
	// Dir is the working directory; empty means that of this program.
	Dir string
	// Env is the whole environment except the mark; see CleanEnv.
	Env []string
	// Activated says that the child is handed Listener, the descriptor of a
	// listening socket, as systemd does it: see sd_listen_fds(3). Linux only.
	Activated bool
	Listener  uintptr
	// User is who the child runs as; nil means whoever this program does.
	User *Credential
	// StopSignal is the first signal of a stop; zero means SIGTERM.
	StopSignal syscall.Signal
	// StopTimeout is the time from the stop signal to SIGKILL; zero means
	// SIGKILL at once.
	StopTimeout time.Duration
	// Stdout and Stderr get what the child writes, byte for byte. They must
	// not block for long: the child would. nil discards.
	Stdout, Stderr io.Writer
	// Gates are what must hold once before a life is ready.
	Gates Gates
}

// Credential is a user with its groups. A child that gets one has it for good:
// real, effective and saved (credentials(7)), with no capability of ours but
// those that come with being root.
type Credential struct {
	Name   string // for people, in errors
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary; none are kept but these
}

// sys is the credential as package syscall takes it.
func (c *Credential) sys() *syscall.Credential {
	if c == nil {
		return nil
	}
	return &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: c.Groups}
}

// Left is a process that an earlier run of this program left behind.
type Left struct {
	PID  int
	Name string // as ps shows it
	Mark string // the service and number of the life it belongs to
}

// ErrHostClosed is returned by starts after Close.
var ErrHostClosed = errors.New("process host is closed")

// Prober tells when a child takes connections. Before is asked before every
// start, Wait as often as somebody needs to know, also at the same time.
type Prober interface {
	// Before returns an error when a start makes no sense now.
	Before(ctx context.Context) error
	// Wait returns the child's address once it takes connections.
	Wait(ctx context.Context, tree probe.Tree) (net.Addr, error)
}

// Options are the settings of a Host.
type Options struct {
	// Log takes the few warnings this package has; nil discards them.
	Log *slog.Logger
}

// CleanEnv returns environ without what is meant for this program alone
// (socket activation, service manager notification, watchdog, our own
// settings), followed by extra, which wins over environ and is not filtered
// except for the mark. Of several values for one name the last one stays.
//
// Variables: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).
func CleanEnv(environ, extra []string) []string {
	all := slices.DeleteFunc(slices.Clone(environ), isPrivate)
	for _, kv := range extra {
		if name, _, _ := strings.Cut(kv, "="); name != MarkVariable {
			all = append(all, kv)
		}
	}
	return lastOfEach(all)
}

func isPrivate(kv string) bool {
	for _, prefix := range []string{"LISTEN_", "NOTIFY_SOCKET=", "WATCHDOG_", "TIPROXY_"} {
		if strings.HasPrefix(kv, prefix) {
			return true
		}
	}
	return false
}

// lastOfEach keeps the last value of each name, in the order of those.
func lastOfEach(env []string) []string {
	seen := make(map[string]bool, len(env))
	out := make([]string, 0, len(env))
	for _, kv := range slices.Backward(env) {
		name, _, _ := strings.Cut(kv, "=")
		if !seen[name] {
			seen[name] = true
			out = append(out, kv)
		}
	}
	slices.Reverse(out)
	return out
}
