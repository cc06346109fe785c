package output

import (
	"bytes"
	"io"
	"sync"
	"time"
)

const (
	// unfinishedTime is how long the end of a line is waited for before what
	// there is of it is passed on. A prompt has none.
	unfinishedTime = 200 * time.Millisecond
	// unfinishedMost is how much of one is kept until then, in bytes.
	unfinishedMost = 16 << 10
)

// Prefix passes lines on with a name in front, so that those of several
// children can share one stream. Every write to the writer behind it is made of
// whole lines. A line whose end does not come is ended for the child.
type Prefix struct {
	w    io.Writer // must not block
	name []byte

	mu    sync.Mutex
	line  []byte      // what there is of an unfinished one
	timer *time.Timer // runs while there is something in line
}

// NewPrefix returns a Prefix in front of w, which must not block.
func NewPrefix(w io.Writer, name string) *Prefix {
	return &Prefix{w: w, name: []byte(name + " | ")}
}

// Write takes p and always returns len(p), nil.
func (x *Prefix) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := len(p)
	var out []byte
	for {
		part, rest, whole := bytes.Cut(p, []byte{'\n'})
		if !whole {
			break
		}
		out = x.appendLineLocked(out, part)
		p = rest
	}
	x.line = append(x.line, p...)
	if len(x.line) > unfinishedMost {
		out = x.appendLineLocked(out, nil)
	}
	x.watchLocked()
	x.passLocked(out)
	return n, nil
}

// appendLineLocked appends the line that ends with part.
func (x *Prefix) appendLineLocked(out, part []byte) []byte {
	out = append(append(out, x.name...), x.line...)
	x.line = x.line[:0]
	return append(append(out, part...), '\n')
}

// watchLocked sees to it that an unfinished line is passed on some time.
func (x *Prefix) watchLocked() {
	switch {
	case len(x.line) == 0 && x.timer != nil:
		x.timer.Stop()
		x.timer = nil
	case len(x.line) > 0 && x.timer == nil:
		x.timer = time.AfterFunc(unfinishedTime, x.Flush)
	}
}

// Flush passes on what there is of an unfinished line.
func (x *Prefix) Flush() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.line) == 0 {
		return
	}
	out := x.appendLineLocked(nil, nil)
	x.watchLocked()
	x.passLocked(out)
}

// passLocked hands lines on, in order. What the writer cannot take it drops, and
// tells that itself.
func (x *Prefix) passLocked(out []byte) {
	if len(out) > 0 {
		_, _ = x.w.Write(out)
	}
}
