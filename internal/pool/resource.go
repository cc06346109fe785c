package pool

import (
	"context"
	"net"
)

// Resource describes something that can be run: a child process today. A
// start gives one Life of it.
type Resource interface {
	// Start brings life number gen into being and returns as soon as it
	// exists, ready or not. An error means that nothing of it exists; it is
	// shown to people, with its cause and a hint. ctx bounds the call, not the
	// life. The pool calls Start only when everything of the life before is
	// gone.
	Start(ctx context.Context, gen uint64) (Life, error)
}

// Life is one run of a Resource, from its start until everything of it is gone.
type Life interface {
	// Ready waits until the life takes connections and returns the address
	// it takes them on. It is called for the start, and again by everybody
	// who finds that the life does not take connections any more, so it is
	// safe for concurrent use. It returns ctx's error when ctx ends first and
	// another error when the life has ended or can never be ready.
	Ready(ctx context.Context) (net.Addr, error)

	// Exited delivers one value, when the process that was started has ended.
	// What it left behind may still live: see Exit.Left.
	Exited() <-chan Exit

	// Stop ends whatever is left of the life and returns when all of it is
	// gone and reaped. It is polite at first (stop signal, then a grace period
	// of the resource's own) and forceful as soon as ctx is done. Calling it
	// for a life of which nothing is left returns at once. After an exit that
	// left nothing it need not be called.
	Stop(ctx context.Context)
}

// Exit tells how the started process of a life ended.
type Exit struct {
	// Err is nil when it ended by itself with status 0 and did not just put
	// itself into the background. Otherwise it says how it ended, with the last
	// lines it printed and a hint where there is one.
	Err error
	// StartErr says the same, also for status 0, to somebody who expected the
	// process to stay: it is why the start failed if there was one under way.
	// It may be nil for status 0.
	StartErr error
	// Status is the exit in few words, for logs: "exit status 3", "signal: killed".
	Status string
	// Left is true while other processes of its tree still live.
	Left bool
}
