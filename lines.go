package main

import (
	"io"
	"sync"
)

// lines lets our log and the child's output share stderr. Each write to it is
// one whole line of the log: it never begins behind a piece of a line that the
// child has not finished yet. What the child writes goes through pieces, and
// is not touched.
//
// The writer behind it must not block, as it is called with the lock held to
// keep the order.
type lines struct {
	w io.Writer

	mu   sync.Mutex
	open bool // the child's last line has no end yet
}

// Write writes one line of the log.
func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.open {
		return l.w.Write(line)
	}
	l.open = false
	n, err := l.w.Write(append([]byte{'\n'}, line...))
	return max(0, n-1), err
}

// pieces is the child's side of lines.
type pieces lines

// Write writes some output of the child.
func (p *pieces) Write(out []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(out) > 0 {
		p.open = out[len(out)-1] != '\n'
	}
	return p.w.Write(out)
}
