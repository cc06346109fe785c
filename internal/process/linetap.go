package process

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"sync"
)

// lineMost is how much of a line is looked at, in bytes.
const lineMost = 64 << 10

// lineGate holds once a line of the child's output has matched.
type lineGate struct {
	pattern *regexp.Regexp
	once    sync.Once
	found   chan struct{} // closed when it has
}

func newLineGate(pattern *regexp.Regexp) *lineGate {
	return &lineGate{pattern: pattern, found: make(chan struct{})}
}

func (g *lineGate) isFound() bool {
	select {
	case <-g.found:
		return true
	default:
		return false
	}
}

func (g *lineGate) wait(ctx context.Context) error {
	select {
	case <-g.found:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("no complete line of its output matches %q yet: %w", g.pattern, context.Cause(ctx))
	}
}

// lineTap looks at what a child prints on one of its outputs. A line is matched
// when it is complete, without its end ("\n" or "\r\n"); of one that is longer
// than lineMost, the beginning.
type lineTap struct {
	gates []*lineGate
	line  []byte // what there is of an unfinished line
}

// tapLines makes a tap for each output, or none where nothing is looked for.
func tapLines(gates []*lineGate, out [2]*copier) {
	if len(gates) == 0 {
		return
	}
	for _, c := range out {
		c.tap = &lineTap{gates: slices.Clone(gates)}
	}
}

// add takes what was printed, and reports whether anything is still looked for.
func (t *lineTap) add(p []byte) bool {
	for {
		line, rest, complete := bytes.Cut(p, []byte{'\n'})
		if !complete || len(t.line) > 0 {
			t.line = append(t.line, line[:min(len(line), lineMost-len(t.line))]...)
			line = t.line
		}
		if !complete {
			return len(t.gates) > 0
		}
		if !t.match(bytes.TrimSuffix(line[:min(len(line), lineMost)], []byte{'\r'})) {
			return false
		}
		t.line = t.line[:0]
		p = rest
	}
}

// match looks for everything in one line.
func (t *lineTap) match(line []byte) bool {
	t.gates = slices.DeleteFunc(t.gates, func(g *lineGate) bool {
		if !g.isFound() && g.pattern.Match(line) {
			g.once.Do(func() { close(g.found) })
		}
		return g.isFound()
	})
	return len(t.gates) > 0
}
