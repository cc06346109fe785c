package process

import (
	"bytes"
	"strings"
)

const (
	// noticeMost is the longest notification that is read, in bytes. The one of
	// systemd's, NOTIFY_BUFFER_MAX, is as long as PIPE_BUF.
	noticeMost = 4096
	statusMost = 200 // bytes of a status that are shown
)

// notice is what one notification says, as far as it matters here.
type notice struct {
	ready  bool
	status string // what the sender is doing, fit to be shown; may be empty
}

// parseNotice reads a notification: lines of the form VARIABLE=VALUE, see
// sd_notify(3). Everything but READY=1 and STATUS is left unread, be it about
// the life of a service (MAINPID, RELOADING, STOPPING, WATCHDOG), which is told
// from the processes themselves here, or about its limits (EXTEND_TIMEOUT_USEC),
// which are the user's.
func parseNotice(msg []byte) notice {
	var n notice
	msg = bytes.TrimSuffix(msg, []byte{0}) // some send the string's end with it
	if bytes.IndexByte(msg, 0) >= 0 {
		return n
	}
	for line := range bytes.SplitSeq(msg, []byte{'\n'}) {
		if string(line) == "READY=1" {
			n.ready = true
		}
		if status, ok := bytes.CutPrefix(line, []byte("STATUS=")); ok {
			n.status = brief(string(status))
		}
	}
	return n
}

// brief makes a status fit to be shown.
func brief(status string) string {
	status = printable(status)
	if len(status) > statusMost {
		status = strings.ToValidUTF8(status[:statusMost-len("...")], "") + "..."
	}
	return status
}
