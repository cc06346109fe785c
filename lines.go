package main

import (
	"bytes"
	"io"
	"sync"
	"time"
)

const (
	// lineGrace is how long the log waits for the child to finish a line that
	// it has begun. Programs that write unbuffered write a line in pieces,
	// microseconds apart; a prompt is never finished.
	lineGrace = 100 * time.Millisecond
	// heldMax bounds the log that waits for the end of a line, in bytes.
	heldMax = 64 << 10
)

// lines lets our log and the child's output share stderr. Each write to it is
// one whole line of the log: it never begins behind a piece of a line that the
// child has not finished yet, but waits a moment for its end and then begins a
// new line. What the child writes goes through pieces, and is not touched.
//
// The writer behind it must not block, as it is called with the lock held to
// keep the order.
type lines struct {
	w io.Writer

	mu   sync.Mutex
	open bool   // the child's last line has no end yet
	held []byte // lines of the log that wait for it
}

// Write writes one line of the log, now or soon.
func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.open {
		return l.w.Write(line)
	}
	if len(l.held) == 0 {
		time.AfterFunc(lineGrace, l.flush)
	}
	l.held = append(l.held, line...)
	if len(l.held) > heldMax {
		l.breakLineLocked()
	}
	return len(line), nil
}

// flush writes the log that still waits.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.breakLineLocked()
}

// breakLineLocked ends the child's line, if the log waits for that.
func (l *lines) breakLineLocked() {
	if len(l.held) == 0 {
		return
	}
	if l.open {
		l.open = false
		l.held = append([]byte{'\n'}, l.held...)
	}
	l.releaseLocked()
}

// releaseLocked writes what was held. The writer drops what it cannot take, and
// tells that itself.
func (l *lines) releaseLocked() {
	if len(l.held) > 0 {
		_, _ = l.w.Write(l.held)
		l.held = nil
	}
}

// pieces is the child's side of lines.
type pieces lines

// Write writes some output of the child.
func (p *pieces) Write(out []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	whole := bytes.LastIndexByte(out, '\n') + 1
	if whole > 0 && len(p.held) > 0 {
		n, err := p.w.Write(out[:whole])
		if err != nil {
			return n, err
		}
		(*lines)(p).releaseLocked()
		p.open = whole < len(out)
		if !p.open {
			return len(out), nil
		}
		m, err := p.w.Write(out[whole:])
		return n + m, err
	}
	if len(out) > 0 {
		p.open = whole < len(out)
	}
	return p.w.Write(out)
}
