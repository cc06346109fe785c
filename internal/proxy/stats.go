package proxy

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// end is why a connection ended.
type end uint8

const (
	endClosed        end = iota // both directions came to their end
	endClientReset              // the client reset it, or vanished
	endUpstreamReset            // the child reset it, or is gone
	endKilled                   // Reset
	endClientLeft               // while it was held
	endRefused                  // it was held for too long
	endStartFailed              // the start it waited for failed
	endDrained                  // it waited when the server drained
	endTurnedAway               // it is not one to be served
	endQuiet                    // it carried nothing for too long
	ends
)

// String returns the reason as it is logged.
func (e end) String() string {
	return [ends]string{"closed", "client reset", "upstream reset", "killed",
		"client left", "refused", "start failed", "drained", "turned away", "quiet"}[e]
}

// counters count connections. Each is counted once in accepted and, when it
// is over, once in one of the ends.
type counters struct {
	accepted atomic.Uint64
	by       [ends]atomic.Uint64
	up, down atomic.Uint64
}

// ended counts the end of a connection and its bytes.
func (c *counters) ended(why end, up, down int64) {
	c.by[why].Add(1)
	c.up.Add(uint64(up))
	c.down.Add(uint64(down))
}

// Stats is a copy of a server's counters. Accepted is the number of
// connections that exist plus the sum of all ends.
type Stats struct {
	Accepted uint64 // connections since New

	Closed        uint64 // carried until both directions came to their end
	ClientReset   uint64 // carried until the client reset it or vanished
	UpstreamReset uint64 // carried until the child reset it or was gone
	Killed        uint64 // carried until Reset
	ClientLeft    uint64 // left while waiting
	Refused       uint64 // waited for a child that took no connection for too long
	StartFailed   uint64 // waited for a start that failed
	Drained       uint64 // waited when the server drained
	TurnedAway    uint64 // refused by the admission
	Quiet         uint64 // carried until they were quiet for too long

	BytesUp   uint64 // to the child, of connections that have ended
	BytesDown uint64 // from the child, of connections that have ended
}

// Stats returns the counters of now. They are read one after the other.
func (s *Server) Stats() Stats {
	by := func(e end) uint64 { return s.counts.by[e].Load() }
	return Stats{
		Accepted: s.counts.accepted.Load(),
		Closed:   by(endClosed), ClientReset: by(endClientReset), UpstreamReset: by(endUpstreamReset),
		Killed: by(endKilled), ClientLeft: by(endClientLeft), Refused: by(endRefused),
		StartFailed: by(endStartFailed), Drained: by(endDrained),
		TurnedAway: by(endTurnedAway), Quiet: by(endQuiet),
		BytesUp: s.counts.up.Load(), BytesDown: s.counts.down.Load(),
	}
}

// damper lets a warning that concerns many clients at once through once a
// second, and says how many it kept back.
type damper struct {
	mu   sync.Mutex
	last time.Time
	kept int
}

// warn logs the line, or keeps it back.
func (d *damper) warn(log *slog.Logger, msg string, args ...any) {
	d.mu.Lock()
	now := time.Now()
	if !d.last.IsZero() && now.Sub(d.last) < time.Second {
		d.kept++
		d.mu.Unlock()
		return
	}
	kept := d.kept
	d.last, d.kept = now, 0
	d.mu.Unlock()
	if kept > 0 {
		args = append(args, "others", kept)
	}
	log.Warn(msg, args...)
}
