//go:build !linux

package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// pipes stands for what only Linux has.
type pipes struct{}

func (*pipes) setLimit(_, _ int) {}
func (*pipes) trim()             {}

// stream is a connection of which one direction can be ended.
type stream interface {
	net.Conn
	CloseWrite() error
}

// relay carries bytes between a client and the child by reading and writing,
// with a goroutine per direction.
type relay struct {
	w          *wires
	client, up stream
	release    func()
	done       func(outcome)
	vigil      *vigil // nil unless quiet matters; set before start

	toUp, toDown atomic.Uint64 // bytes carried so far

	// The fields below are guarded by mu.
	mu     sync.Mutex
	why    end
	over   bool // why is decided
	served bool // the child has ended its direction
}

// newRelay returns a relay between two connections, which it owns from start
// on. release is called once the child's side is over, done at the end.
func newRelay(w *wires, client, upstream net.Conn, release func(), done func(outcome)) (*relay, error) {
	c, ok := client.(stream)
	u, fine := upstream.(stream)
	if !ok || !fine {
		return nil, fmt.Errorf("%T and %T cannot both be half-closed", client, upstream)
	}
	return &relay{w: w, client: c, up: u, release: release, done: done}, nil
}

// carried is how much was carried so far.
func (r *relay) carried() (up, down uint64) { return r.toUp.Load(), r.toDown.Load() }

// start carries the bytes.
func (r *relay) start() {
	r.vigil.begin()
	go r.run()
}

// busy is not known here.
func (r *relay) busy() bool { return false }

// endQuiet closes both sides.
func (r *relay) endQuiet() bool {
	if r.finish(endQuiet) {
		r.client.Close()
		r.up.Close()
	}
	return true
}

// run carries the bytes and calls done when both sockets are closed.
func (r *relay) run() {
	down := make(chan int64)
	go r.carryDown(down)
	up := r.carry(&r.toUp, r.up, r.client, endUpstreamReset, endClientReset)
	out := outcome{up: up, down: <-down}
	r.vigil.over()
	r.release()
	r.finish(endClosed)
	r.client.Close()
	r.up.Close()
	r.mu.Lock()
	out.end = r.why
	r.mu.Unlock()
	r.done(out)
}

// delivered reports whether everything that came from the child was handed to
// the client's socket.
func (r *relay) delivered() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.served
}

// carryDown carries what comes from the child and tells how much it was.
func (r *relay) carryDown(total chan<- int64) {
	n := r.carry(&r.toDown, r.client, r.up, endClientReset, endUpstreamReset)
	r.mu.Lock()
	r.served = true
	r.mu.Unlock()
	total <- n
}

// carry copies from src to dst until the end and passes that on. An error is
// passed on as a reset of both, for the reason that belongs to the broken side.
func (r *relay) carry(moved *atomic.Uint64, dst, src stream, dstBroke, srcBroke end) int64 {
	buf := r.w.buffers.Get().(*[bufferSize]byte)
	defer r.w.buffers.Put(buf)
	var total int64
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			r.vigil.touch()
			wrote, werr := dst.Write(buf[:n])
			total += int64(wrote)
			moved.Add(uint64(wrote))
			if werr != nil {
				r.breakOff(dstBroke)
				return total
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			if dst.CloseWrite() != nil {
				r.breakOff(dstBroke)
			}
			return total
		case err != nil:
			r.breakOff(srcBroke)
			return total
		}
	}
}

// finish decides how the relay ended, if that is open, and reports whether it was.
func (r *relay) finish(why end) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return false
	}
	r.why, r.over = why, true
	return true
}

// breakOff resets both sides.
func (r *relay) breakOff(why end) {
	if r.finish(why) {
		reset(r.client)
		reset(r.up)
	}
}

// kill resets both sides now.
func (r *relay) kill() { r.breakOff(endKilled) }

// endIfServed closes both sides if the child's has ended.
func (r *relay) endIfServed() {
	r.mu.Lock()
	served := r.served
	r.mu.Unlock()
	if served && r.finish(endClosed) {
		r.client.Close()
		r.up.Close()
	}
}
