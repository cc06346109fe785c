package process

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// Whatever a child prints, in whatever pieces: its last lines are few, short
// and fit to be shown, and the pieces do not matter.
func FuzzTail(f *testing.F) {
	f.Add([]byte("one\ntwo\nthree"), byte(0), byte(3))
	f.Add([]byte("\n\n \t\r\n\x1b[31mred\x1b[0m\a\r\n\xff\xc3\n"), byte(0), byte(1))
	f.Add([]byte("a line\n"), byte(30), byte(100))
	f.Add([]byte("xxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r "), byte(140), byte(255))
	f.Fuzz(func(t *testing.T, what []byte, more, piece byte) {
		printed := bytes.Repeat(what[:min(len(what), 64)], 1+int(more))
		var whole, torn, crossed tail
		whole.add(0, printed)
		for p := range slices.Chunk(printed, 1+int(piece)) {
			torn.add(0, p)
			crossed.add(0, p)
			crossed.add(1, p)
		}
		for _, lines := range [][]string{whole.last(), torn.last(), crossed.last()} {
			fitToBeShown(t, lines)
		}
		// Of more than that at once, only the end is looked at.
		if len(printed) <= 2*tailBytes && !slices.Equal(whole.last(), torn.last()) {
			t.Errorf("at once %q, in pieces %q", whole.last(), torn.last())
		}
	})
}

func fitToBeShown(t *testing.T, lines []string) {
	t.Helper()
	size := 0
	for _, line := range lines {
		size += len(line)
		if !utf8.ValidString(line) || strings.ContainsFunc(line, unicode.IsControl) {
			t.Errorf("%q is not fit to be shown", line)
		}
	}
	if len(lines) > tailLines || size > tailBytes {
		t.Errorf("%d lines with %d bytes", len(lines), size)
	}
}
