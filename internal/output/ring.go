// Package output is where a child's output goes besides being passed on: a
// bounded ring of its last lines that people can look at and follow, lines with
// the service's name in front, and a file that is rotated by size.
//
// What is always true: whoever writes is the child, through its pipe, and is
// never held up. What nobody takes is dropped and counted, never waited for.
// Memory is bounded, whatever the child prints and however slow a reader is.
package output

import (
	"bytes"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	// ringBytes and ringLines bound what a Ring remembers.
	ringBytes = 256 << 10
	ringLines = 4000
	// lineMost is how long a remembered line can be, in bytes. The rest of it is
	// not remembered.
	lineMost = 8 << 10
	// lineCost is what a line takes beside its text.
	lineCost = 64
	// behindMost is how many lines a follower may be behind.
	behindMost = 1024
)

// Line is one line of a child's output.
type Line struct {
	Seq    uint64    // counts from 1, without gaps, over both streams
	At     time.Time // when its end was read
	Stream string    // "stdout" or "stderr"
	Text   string    // without its end and without control characters
	Cut    bool      // its end is missing, as it was too long
}

// Ring remembers the last lines of a child. The zero value is empty and ready
// to use; its methods are safe for concurrent use.
type Ring struct {
	mu        sync.Mutex
	lines     []Line // oldest first
	size      int    // of lines, in bytes
	seq       uint64 // of the newest line
	followers map[*Follower]struct{}
}

// Follower is somebody who reads what is printed from now on.
type Follower struct {
	ring *Ring
	// C gets every new line. It is closed at Close, and when the follower is too
	// far behind: Lost tells the two apart.
	C    <-chan Line
	c    chan Line
	lost bool // guarded by ring.mu
}

// Stream returns a writer for what the child prints on one of its streams. It
// always takes everything. One goroutine at a time may use it.
func (r *Ring) Stream(name string) *Stream { return &Stream{ring: r, name: name} }

// Last returns the last lines that are remembered, oldest first.
func (r *Ring) Last() []Line {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Line(nil), r.lines...)
}

// Follow returns the remembered lines behind number after, and a follower who
// gets all later ones, without a gap or a repetition between the two.
func (r *Ring) Follow(after uint64) ([]Line, *Follower) {
	r.mu.Lock()
	defer r.mu.Unlock()
	past := r.lines
	for len(past) > 0 && past[0].Seq <= after {
		past = past[1:]
	}
	f := &Follower{ring: r, c: make(chan Line, behindMost)}
	f.C = f.c
	if r.followers == nil {
		r.followers = make(map[*Follower]struct{})
	}
	r.followers[f] = struct{}{}
	return append([]Line(nil), past...), f
}

// Close ends the follower. It may be called more than once.
func (f *Follower) Close() {
	f.ring.mu.Lock()
	defer f.ring.mu.Unlock()
	f.ring.dismissLocked(f)
}

// Lost reports whether the follower was ended for being too far behind.
func (f *Follower) Lost() bool {
	f.ring.mu.Lock()
	defer f.ring.mu.Unlock()
	return f.lost
}

func (r *Ring) dismissLocked(f *Follower) {
	if _, on := r.followers[f]; on {
		delete(r.followers, f)
		close(f.c)
	}
}

// add remembers a line and hands it on.
func (r *Ring) add(stream, text string, cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	line := Line{Seq: r.seq, At: time.Now(), Stream: stream, Text: text, Cut: cut}
	r.lines = append(r.lines, line)
	r.size += len(text) + lineCost
	for len(r.lines) > ringLines || r.size > ringBytes {
		r.size -= len(r.lines[0].Text) + lineCost
		r.lines[0] = Line{}
		r.lines = r.lines[1:]
	}
	for f := range r.followers {
		select {
		case f.c <- line:
		default:
			f.lost = true
			r.dismissLocked(f)
		}
	}
}

// Stream cuts what is printed into lines for a Ring.
type Stream struct {
	ring *Ring
	name string
	line []byte // what there is of an unfinished one
	cut  bool   // more than fits
}

// Write takes p and always returns len(p), nil.
func (s *Stream) Write(p []byte) (int, error) {
	n := len(p)
	for {
		part, rest, whole := bytes.Cut(p, []byte{'\n'})
		if over := len(s.line) + len(part) - lineMost; over > 0 {
			part, s.cut = part[:len(part)-over], true
		}
		s.line = append(s.line, part...)
		if !whole {
			return n, nil
		}
		s.End()
		p = rest
	}
}

// End makes a line of what was printed since the last one, if anything was: the
// child has ended, or its line has.
func (s *Stream) End() {
	text := clean(s.line)
	if text != "" {
		s.ring.add(s.name, text, s.cut)
	}
	s.line, s.cut = s.line[:0], false
}

// clean makes a line fit to be shown: nothing in it gives orders to a terminal.
func clean(line []byte) string {
	text := strings.TrimRight(strings.ToValidUTF8(string(line), "\uFFFD"), " \t\r")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return r
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r):
			return -1
		}
		return r
	}, text)
}
