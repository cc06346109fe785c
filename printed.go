package main

import (
	"context"
	"io"
	"sync"

	"tiproxy/internal/admin"
	"tiproxy/internal/output"
)

// record has what the child prints remembered besides being passed on.
func (v *service) record() {
	out := &recorder{w: v.out, stream: v.printed.Stream("stdout")}
	err := &recorder{w: v.err, stream: v.printed.Stream("stderr")}
	v.out, v.err, v.recorded = out, err, []*recorder{out, err}
}

// recorder passes on what a child prints on one of its streams, and remembers
// its lines.
type recorder struct {
	w io.Writer

	mu     sync.Mutex
	stream *output.Stream
}

// Write passes p on.
func (r *recorder) Write(p []byte) (int, error) {
	r.remember(p)
	return r.w.Write(p)
}

func (r *recorder) remember(p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = r.stream.Write(p) // it takes everything
}

// end makes a line of what has no end: the child is gone.
func (r *recorder) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stream.End()
}

// printed shows what a child prints to who asks.
type printed struct{ ring *output.Ring }

// Follow implements admin.Output.
func (o printed) Follow(after uint64) ([]admin.Line, admin.Follower) {
	past, f := o.ring.Follow(after)
	return shown(past), printing{f}
}

// printing is somebody who follows.
type printing struct{ *output.Follower }

// Next implements admin.Follower.
func (f printing) Next(ctx context.Context) ([]admin.Line, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case l, ok := <-f.C:
		if !ok {
			return nil, f.end()
		}
		lines := []output.Line{l}
		for range len(f.C) {
			if l, ok = <-f.C; ok {
				lines = append(lines, l)
			}
		}
		return shown(lines), nil
	}
}

// end is why there is nothing more.
func (f printing) end() error {
	if f.Lost() {
		return admin.ErrBehind
	}
	return io.EOF
}

func shown(lines []output.Line) []admin.Line {
	out := make([]admin.Line, len(lines))
	for i, l := range lines {
		out[i] = admin.Line{Seq: l.Seq, Time: l.At, Stream: l.Stream, Line: l.Text, Cut: l.Cut}
	}
	return out
}
