package process

import (
	"bytes"
	"strings"
	"sync"
	"unicode"
)

const (
	tailLines = 10      // lines remembered at most
	tailBytes = 4 << 10 // bytes remembered at most, over all lines
)

// tail remembers the last lines a child printed on either of its outputs.
type tail struct {
	mu    sync.Mutex
	lines []string // complete lines, oldest first
	size  int      // bytes in lines
	open  [2][]byte
}

// add takes what was printed on output number which (0 or 1). Lines of the two
// outputs are not mixed, however they are cut into pieces.
func (t *tail) add(which int, p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		line, rest, found := bytes.Cut(p, []byte{'\n'})
		t.open[which] = appendLast(t.open[which], line)
		if !found {
			return
		}
		t.pushLocked(string(t.open[which]))
		t.open[which] = t.open[which][:0]
		p = rest
		// Only the end can matter: skip what would be pushed out again.
		if cut := len(p) - 2*tailBytes; cut > 0 {
			p = p[cut:]
		}
	}
}

// appendLast appends p to line and keeps the last tailBytes of it.
func appendLast(line, p []byte) []byte {
	if len(p) >= tailBytes {
		return append(line[:0], p[len(p)-tailBytes:]...)
	}
	if over := len(line) + len(p) - tailBytes; over > 0 {
		line = line[:copy(line, line[over:])]
	}
	return append(line, p...)
}

func (t *tail) pushLocked(line string) {
	if strings.TrimSpace(line) == "" {
		return
	}
	t.lines = append(t.lines, line)
	t.size += len(line)
	for len(t.lines) > tailLines || t.size > tailBytes {
		t.size -= len(t.lines[0])
		t.lines = append(t.lines[:0], t.lines[1:]...)
	}
}

// last returns the last lines, oldest first, unfinished ones included, fit to be
// shown: without control characters.
func (t *tail) last() []string {
	t.mu.Lock()
	lines := append([]string(nil), t.lines...)
	for _, open := range t.open {
		if len(bytes.TrimSpace(open)) > 0 {
			lines = append(lines, string(open))
		}
	}
	t.mu.Unlock()
	size := 0
	for i := len(lines) - 1; i >= 0; i-- {
		size += len(lines[i])
		if len(lines)-i > tailLines || size > tailBytes {
			lines = lines[i+1:]
			break
		}
		lines[i] = printable(lines[i])
	}
	return lines
}

func printable(line string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(strings.TrimRight(line, " \t\r"), "?"))
}
