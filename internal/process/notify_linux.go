package process

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// notifyVariable tells programs where to send their notifications.
const notifyVariable = "NOTIFY_SOCKET"

// notifier receives the notifications of one life (sd_notify(3)): datagrams of
// which the kernel tells who sent them. Those of strangers are ignored.
//
// Its address is in the abstract namespace (unix(7)): no file is left behind by
// a program that is killed, and a child that has changed its user or its root
// directory reaches it. A child in a network namespace of its own does not.
type notifier struct {
	conn    *net.UnixConn
	address string // as the variable has it: "@" stands for the NUL byte
	log     *slog.Logger
	ready   chan struct{} // closed when READY=1 has come
	done    chan struct{} // closed when run has returned

	mu     sync.Mutex
	held   bool   // ready is closed
	status string // the last one
	lost   int    // the sender of a READY=1 that had ended before it could be judged
	failed error  // why nothing can be received
}

// newNotifier makes an address that nobody has had before.
func newNotifier(log *slog.Logger) (*notifier, error) {
	address := "@tiproxy/" + rand.Text()
	lc := net.ListenConfig{Control: passCredentials}
	conn, err := lc.ListenPacket(context.Background(), "unixgram", address)
	if err != nil {
		return nil, fmt.Errorf("make the socket of %s: %w", notifyVariable, err)
	}
	return &notifier{conn: conn.(*net.UnixConn), address: address, log: log,
		ready: make(chan struct{}), done: make(chan struct{})}, nil
}

// passCredentials is done before the address is bound, so that no message can
// come without them (SO_PASSCRED in unix(7)).
func passCredentials(_, _ string, c syscall.RawConn) error {
	var err error
	ctlErr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	return errors.Join(ctlErr, err)
}

// addTo adds the address to an environment.
func (n *notifier) addTo(env []string) []string {
	if n == nil {
		return env
	}
	env = slices.DeleteFunc(env, func(kv string) bool { return strings.HasPrefix(kv, notifyVariable+"=") })
	return append(env, notifyVariable+"="+n.address)
}

// gates are what the notifier is waited for with.
func (n *notifier) gates() []gate {
	if n == nil {
		return nil
	}
	return []gate{n}
}

// drop closes a notifier that was not run.
func (n *notifier) drop() {
	if n != nil {
		n.conn.Close()
	}
}

// end makes run return. It does not wait long for a descriptor that was sent and
// cannot be closed: of a file system that does not answer, say (close(2)).
func (n *notifier) end() {
	if n == nil {
		return
	}
	n.conn.Close()
	limit := time.NewTimer(time.Second)
	defer limit.Stop()
	select {
	case <-n.done:
	case <-limit.C:
		n.log.Warn("a descriptor that came with a notification cannot be closed")
	}
}

// run receives for as long as the life lasts: a sender whose address is gone
// gets an error, which ends many a script.
func (n *notifier) run(tree *tree) {
	defer close(n.done)
	// The most that fits: 253 descriptors (SCM_MAX_FD) and credentials.
	oob := make([]byte, unix.CmsgSpace(253*4)+unix.CmsgSpace(unix.SizeofUcred))
	msg := make([]byte, noticeMost)
	strangers := false
	for {
		size, oobSize, flags, _, err := n.conn.ReadMsgUnix(msg, oob)
		if err != nil {
			n.fail(err)
			return
		}
		pid, fds := unpack(oob[:oobSize])
		if flags&unix.MSG_TRUNC == 0 && !n.take(tree, pid, parseNotice(msg[:size])) && !strangers {
			strangers = true
			n.log.Debug("notifications of a process outside the child's tree are ignored", "pid", pid)
		}
		// Only now: with BARRIER=1 comes a descriptor for whose end the sender
		// waits, and while it waits it can be judged.
		letGo(fds)
	}
}

// letGo closes descriptors that anybody may have sent. The last one of a socket
// would be waited for until its peer has taken everything, if the sender has
// asked for that (SO_LINGER in socket(7)).
func letGo(fds []int) {
	for _, fd := range fds {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{}) // fails for what is no socket
		unix.Close(fd)
	}
}

// unpack returns the sender's pid, 0 if it is of no PID namespace below ours,
// and the descriptors that came along.
func unpack(oob []byte) (pid int, fds []int) {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, nil
	}
	for i := range all {
		if cred, err := unix.ParseUnixCredentials(&all[i]); err == nil {
			pid = int(cred.Pid)
		}
		if some, err := unix.ParseUnixRights(&all[i]); err == nil {
			fds = append(fds, some...)
		}
	}
	return pid, fds
}

// take notes what a process has said; false if it is a stranger.
func (n *notifier) take(tree *tree, pid int, said notice) bool {
	if !said.ready && said.status == "" {
		return true // not worth a look at who it is
	}
	member, exists := tree.has(pid)
	switch {
	case !member && !exists && pid != 0:
		n.lose(pid, said.ready)
		return true
	case !member:
		return false
	}
	if said.status != "" {
		n.log.Debug("the child says what it does", "pid", pid, "status", said.status)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if said.status != "" {
		n.status = said.status
	}
	if said.ready && !n.held {
		n.held = true
		close(n.ready)
	}
	return true
}

// lose notes that somebody had ended before it could be judged.
func (n *notifier) lose(pid int, ready bool) {
	n.log.Debug("a notification is ignored because its sender has ended too soon to tell whose it was", "pid", pid)
	n.mu.Lock()
	defer n.mu.Unlock()
	if ready {
		n.lost = pid
	}
}

func (n *notifier) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failed = err
}

// wait implements gate.
func (n *notifier) wait(ctx context.Context) error {
	select {
	case <-n.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("no READY=1 has come over %s%s: %w", notifyVariable, n.more(), context.Cause(ctx))
	}
}

// more is what else is known.
func (n *notifier) more() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.lost != 0:
		return fmt.Sprintf(" that can be told to be the child's: process %d, which sent one, had ended too soon (let it wait: systemd-notify without --no-block)", n.lost)
	case n.failed != nil && !errors.Is(n.failed, net.ErrClosed):
		return fmt.Sprintf(", which cannot be read: %v", n.failed)
	case n.status != "":
		return fmt.Sprintf("; its last status: %q", n.status)
	}
	return ""
}
