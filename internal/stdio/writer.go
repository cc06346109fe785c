// Package stdio puts tiproxy's own standard output and standard error behind
// writers that never hold up who writes.
//
// What is always true: Write returns at once with the whole length and no
// error, whether the reader of the descriptor is fast, stuck or gone. At most
// Limit bytes wait; what is accepted comes out byte for byte and in order; what
// is not accepted is counted and told once. A broken descriptor is never an
// error to anybody, and never ends the program.
package stdio

import (
	"context"
	"sync"
	"time"
)

const (
	// Limit is the number of bytes that may wait for the descriptor at most,
	// those of a write that is under way included.
	Limit = 1 << 20

	// resume is how few bytes must wait before input is accepted again after
	// some was dropped. Half the limit makes every gap in the output one
	// piece, worth one line, instead of a hole for every chunk that found no
	// place just then.
	resume = Limit / 2

	// piece is the largest single write. Its bytes count as waiting until it
	// returns, so it is also how exactly the queue knows what it holds.
	piece = 64 << 10

	// retryEvery is how often a write is tried that a full disk has refused.
	// Nothing tells when there is room again.
	retryEvery = 200 * time.Millisecond

	// keep is the largest buffer that an empty queue holds on to: enough that
	// lines and pipe reads cost no allocation each, little enough to sleep on.
	keep = 32 << 10
)

// Writer is an io.Writer in front of a file descriptor. It is safe for
// concurrent use.
type Writer struct {
	fd     int
	onDrop func(n int64)
	wake   chan struct{} // capacity 1: there is something for the goroutine
	stop   chan struct{} // closed by Close
	ended  chan struct{} // closed when the goroutine has ended

	mu       sync.Mutex
	queue    []byte // accepted, not yet taken by the goroutine
	flying   int    // bytes taken by the goroutine, not yet written
	dropped  int64  // bytes dropped in this episode
	dropping bool   // an episode is on: nothing is accepted
	over     bool   // closed or broken: everything is discarded
	closed   bool
	idle     chan struct{} // closed when nothing waits any more; nil if nobody asks
}

// New returns a Writer in front of the descriptor fd, which must stay open
// until Close and the goroutine's end; for descriptors 1 and 2 that is the end
// of the program.
//
// When input had to be dropped, onDrop is called with the number of bytes as
// soon as input is accepted again: once per episode, from the Writer's
// goroutine, and without any lock, so it may write to this same Writer. It must
// not wait for this Writer. A nil onDrop drops in silence.
//
// The descriptor is written with plain write(2). An os.File would, on
// descriptors 1 and 2, end the program by SIGPIPE once nobody reads (see
// os/signal, "SIGPIPE"). A file that may not grow (RLIMIT_FSIZE) ends nothing
// either: the Go runtime passes SIGXFSZ over unless somebody asks for it.
func New(fd int, onDrop func(n int64)) *Writer {
	w := &Writer{
		fd:     fd,
		onDrop: onDrop,
		wake:   make(chan struct{}, 1),
		stop:   make(chan struct{}),
		ended:  make(chan struct{}),
	}
	go w.writeOut()
	return w
}

// Write takes p, whole or not at all, and always returns len(p), nil. It is
// dropped when Limit bytes would be exceeded, and from then on so is
// everything until half of the queue is free again. Chunks are never cut, so a
// line that is written by one call appears whole or not at all.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	if w.acceptLocked(p) {
		w.queue = append(w.queue, p...)
	}
	w.mu.Unlock()
	w.poke()
	return len(p), nil
}

// acceptLocked reports whether p may be queued, and counts it when it is dropped.
func (w *Writer) acceptLocked(p []byte) bool {
	switch {
	case w.over:
		return false
	case w.dropping || len(w.queue)+w.flying+len(p) > Limit:
		w.dropping = true
		w.dropped += int64(len(p))
		return false
	}
	return true
}

// poke tells the goroutine that something has changed.
func (w *Writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Flush waits until everything accepted so far has been given to the
// descriptor, or nothing ever will be because it is broken or the Writer
// closed. It returns nil then, and the cause of ctx's end when that came first.
func (w *Writer) Flush(ctx context.Context) error {
	for {
		idle := w.idleWait()
		if idle == nil {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// idleWait returns a channel that is closed when the queue is next empty, or
// nil if it is empty now.
func (w *Writer) idleWait() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || len(w.queue)+w.flying == 0 {
		return nil
	}
	if w.idle == nil {
		w.idle = make(chan struct{})
	}
	return w.idle
}

// Close discards what still waits and ends the Writer's goroutine. It does not
// wait: a goroutine that is blocked in a write ends when that write does. What
// is written later is discarded. Call Flush first to lose nothing. Close
// always returns nil and may be called more than once.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.closed = true
		close(w.stop)
	}
	w.giveUpLocked()
	return nil
}

// giveUpLocked makes the Writer discard everything from now on.
func (w *Writer) giveUpLocked() {
	w.over = true
	w.queue = nil
	w.dropped = 0
	w.tellIdleLocked()
}

func (w *Writer) tellIdleLocked() {
	if w.idle != nil {
		close(w.idle)
		w.idle = nil
	}
}

// writeOut is the Writer's goroutine. It ends at Close, and at the first write
// that fails for good.
func (w *Writer) writeOut() {
	defer close(w.ended)
	for {
		select {
		case <-w.stop:
			return
		case <-w.wake:
		}
		if !w.drain() {
			return
		}
	}
}

// drain writes until nothing waits. It reports whether the Writer can go on.
func (w *Writer) drain() bool {
	var spare []byte
	for {
		batch, lost := w.take(spare)
		if lost > 0 && w.onDrop != nil {
			w.onDrop(lost)
		}
		if len(batch) == 0 {
			// A callback may have written to an empty queue; its poke is
			// still in the channel, so nothing is forgotten here.
			return true
		}
		if !w.writeBatch(batch) {
			return false
		}
		spare = batch
	}
}

// take hands the queue to the goroutine and leaves spare in its place if that
// is small. lost is the number of bytes of an episode that ends with this call.
func (w *Writer) take(spare []byte) (batch []byte, lost int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	lost = w.endEpisodeLocked()
	if len(w.queue) == 0 && cap(w.queue) > 0 {
		return nil, lost // an empty queue keeps the buffer it has
	}
	batch = w.queue
	w.queue = nil
	if cap(spare) <= keep && !w.over {
		w.queue = spare[:0]
	}
	w.flying = len(batch)
	return batch, lost
}

// endEpisodeLocked accepts input again if enough of the queue is free, and
// returns how many bytes were dropped until now, once.
func (w *Writer) endEpisodeLocked() int64 {
	if !w.dropping || len(w.queue)+w.flying > resume {
		return 0
	}
	lost := w.dropped
	w.dropping, w.dropped = false, 0
	return lost
}

// writeBatch writes all of batch. It reports false when the Writer is over.
func (w *Writer) writeBatch(batch []byte) bool {
	for len(batch) > 0 {
		n, err := writeSome(w.fd, batch[:min(len(batch), piece)])
		if passing(w.fd, err) {
			if !w.sleep(retryEvery) {
				return false
			}
			continue
		}
		batch = batch[n:]
		lost, ok := w.wrote(n, err)
		if !ok {
			return false
		}
		if lost > 0 && w.onDrop != nil {
			w.onDrop(lost)
		}
	}
	return true
}

// sleep waits for d. It reports false when the Writer was closed.
func (w *Writer) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.stop:
		return false
	}
}

// wrote books n written bytes. ok is false when nothing more shall be written.
func (w *Writer) wrote(n int, err error) (lost int64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flying -= n
	if err != nil {
		w.flying = 0
		w.giveUpLocked()
	}
	if w.over {
		return 0, false
	}
	if w.flying == 0 && len(w.queue) == 0 {
		w.tellIdleLocked()
	}
	return w.endEpisodeLocked(), true
}
