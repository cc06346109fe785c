//go:build linux

package process

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// tapped feeds pieces to a tap and returns which patterns have matched, and
// whether the tap wants more.
func tapped(patterns []string, pieces ...string) (found []string, more bool) {
	var gates []*lineGate
	for _, p := range patterns {
		gates = append(gates, newLineGate(regexp.MustCompile(p)))
	}
	tap := &lineTap{gates: slices.Clone(gates)}
	more = true
	for _, piece := range pieces {
		if more {
			more = tap.add([]byte(piece))
		}
		if len(tap.line) > lineMost {
			panic("a line is remembered beyond its bound")
		}
	}
	for _, g := range gates {
		if g.isFound() {
			found = append(found, g.pattern.String())
		}
	}
	return found, more
}

func TestLineTap(t *testing.T) {
	long := strings.Repeat("x", lineMost)
	for name, tt := range map[string]struct {
		pattern string
		pieces  []string
		want    bool
	}{
		"in the middle":              {"for con", []string{"ready for connections\n"}, true},
		"another line":               {"for con", []string{"ready\nfor\ncon\n"}, false},
		"whole line":                 {"^ready$", []string{"ready\n"}, true},
		"line end of others":         {"^ready$", []string{"ready\r\n"}, true},
		"inner carriage return":      {"^ready$", []string{"1%\rready\n"}, false},
		"unfinished":                 {"ready", []string{"ready"}, false},
		"finished later":             {"^ready$", []string{"re", "ad", "", "y", "\n"}, true},
		"end comes alone":            {"^ready$", []string{"ready\r", "\n"}, true},
		"second line":                {"^ready$", []string{"one\nre", "ady\nthree\n"}, true},
		"empty line":                 {"^$", []string{"x\n\n"}, true},
		"no empty line":              {"^$", []string{"x\ny\n"}, false},
		"every byte":                 {`^\xff.$`, []string{"\xff\xfe\n"}, false},
		"bytes that are no text":     {"^a.b$", []string{"a\xffb\n"}, true},
		"beginning of a long line":   {"^yx", []string{"y" + long + long + "\n"}, true},
		"end of a long line":         {"y$", []string{long + "y\n"}, false},
		"end of a long line, pieces": {"y$", []string{long, "y\n"}, false},
		"a long line that fits":      {"^x+y$", []string{long[1:] + "y\n"}, true},
		"what follows a long line":   {"^ready$", []string{long, long, "\nready\n"}, true},
	} {
		if found, more := tapped([]string{tt.pattern}, tt.pieces...); (len(found) == 1) != tt.want || more == tt.want {
			t.Errorf("%s: %q in %.40q: %v, wants more: %v", name, tt.pattern, tt.pieces, found, more)
		}
	}
}

func TestLineTap_ManyPatterns(t *testing.T) {
	if found, more := tapped([]string{"a", "b", "c"}, "b\na\n"); !slices.Equal(found, []string{"a", "b"}) || !more {
		t.Errorf("found %v, wants more: %v", found, more)
	}
	if found, more := tapped([]string{"a", "b", "a"}, "ab\n", "never looked at\n"); len(found) != 3 || more {
		t.Errorf("found %v, wants more: %v", found, more)
	}
}

// FuzzLineTap: however output is cut into pieces, a line is found if, and only
// if, it is there.
func FuzzLineTap(f *testing.F) {
	f.Add("one\nready\n", 3)
	f.Add("ready\r\n", 6)
	f.Add("xready\nready", 1)
	f.Fuzz(func(t *testing.T, text string, cut int) {
		want := false
		lines := strings.Split(text, "\n")
		for _, line := range lines[:len(lines)-1] {
			line = strings.TrimSuffix(line[:min(len(line), lineMost)], "\r")
			want = want || line == "ready"
		}
		cut = max(0, min(cut, len(text)))
		if found, _ := tapped([]string{`^ready\z`}, text[:cut], text[cut:]); (len(found) == 1) != want {
			t.Fatalf("%q cut at %d: found %v, want %v", text, cut, found, want)
		}
	})
}

// linesOf are gates for patterns.
func linesOf(patterns ...string) Gates {
	var g Gates
	for _, p := range patterns {
		g.Lines = append(g.Lines, regexp.MustCompile(p))
	}
	return g
}

func TestLog_OutputPassesByteForByteAndTheTapComesOff(t *testing.T) {
	r := newRig(t)
	blob := []byte("ready\n" + strings.Repeat("no end of this line ", 1<<17) + "\r\n\x00\xff")
	file := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(file, blob, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := r.command("/bin/sh", "-c", "cat "+file+"; cat "+file+" >&2; echo last >&2")
	cmd.Gates = linesOf("^ready$", "^\x00?.*last$")
	l := r.start(cmd)
	r.exit(l)
	r.stop(l)
	if r.out.String() != string(blob) || r.err.String() != string(blob)+"last\n" {
		t.Errorf("%d and %d bytes arrived, want %d and 5 more, or they differ", len(r.out.String()), len(r.err.String()), len(blob))
	}
	if l.out[1].tap != nil {
		t.Error("the output is still looked at though every pattern was found")
	}
}

func TestLog_IsReadyWhenTheLineComes(t *testing.T) {
	r := newRig(t)
	cmd := r.command("/bin/sh", "-c", "echo one; read wait <"+fifo(t)+"; echo two >&2; exec sleep 1000")
	cmd.Gates = linesOf("^one$", "^two$")
	l := r.start(cmd)
	_, err := l.Ready(briefly(t))
	var e *NotReadyError
	if !errors.As(err, &e) || !errors.Is(err, errOver) || !strings.Contains(err.Error(), `no complete line of its output matches "^two$" yet: the test is over; it printed last: "one"`) {
		t.Errorf("Ready = %v", err)
	}
	openFifo(t, cmd)
	if _, err := l.Ready(t.Context()); err != nil {
		t.Errorf("Ready = %v", err)
	}
	r.stop(l)
	r.quiet()
}
