package proxy

import (
	"sync"
	"sync/atomic"
	"time"
)

// bufferSize is what is read at once while nothing shows that there is more.
const bufferSize = 16 << 10

// limits are the times of a relay. Only tests change them.
type limits struct {
	// tick is how often a direction that cannot write looks at the other side.
	tick time.Duration
	// stall is how long a reset is kept back for a peer that takes nothing.
	stall time.Duration
	// orphan is how long the peer's half of a unix connection counts as open
	// after the peer has closed both. It is what the kernel gives the same on
	// TCP: tcp_fin_timeout in tcp(7).
	orphan time.Duration
	// linger is how long a close waits for acknowledgements while draining.
	linger time.Duration
}

// wires is what all relays of a server share.
type wires struct {
	limits   limits
	buffers  sync.Pool // of *[bufferSize]byte
	pipes    pipes
	abort    chan struct{} // closed by Reset
	draining atomic.Bool
}

// newWires returns what the relays of a server of that many connections share.
func newWires(connections int) *wires {
	w := &wires{
		limits: limits{
			tick:   time.Second,
			stall:  5 * time.Second,
			orphan: time.Minute,
			linger: 2 * time.Second,
		},
		abort: make(chan struct{}),
	}
	w.pipes.setLimit(connections, descriptorLimit())
	w.buffers.New = func() any { return new([bufferSize]byte) }
	return w
}

// trim gives back what is kept for connections when there are none.
func (w *wires) trim() { w.pipes.trim() }

// outcome is what became of a relay.
type outcome struct {
	up, down int64 // bytes to and from the child
	end      end
	// retry is set when the child reset the connection before a byte was
	// moved. The client's socket is then open and untouched.
	retry bool
}
