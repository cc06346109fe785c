package output

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPrefixWritesWholeLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		a, b := NewPrefix(&out, "a"), NewPrefix(&out, "b")
		fmt.Fprint(a, "one\ntw")
		fmt.Fprint(b, "uno\n")
		fmt.Fprint(a, "o\n\n")
		if got, want := out.String(), "a | one\nb | uno\na | two\na | \n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// A prompt appears although its line has no end, and is not repeated.
func TestPrefixDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		p := NewPrefix(&out, "sh")
		fmt.Fprint(p, "password: ")
		time.Sleep(unfinishedTime - 1)
		synctest.Wait()
		if out.String() != "" {
			t.Errorf("passed on early: %q", out.String())
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		fmt.Fprint(p, "thanks\n")
		p.Flush()
		if got, want := out.String(), "sh | password: \nsh | thanks\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestPrefixIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := NewPrefix(&out, "x")
		for range 10 {
			fmt.Fprint(p, strings.Repeat("y", unfinishedMost/2))
		}
		if len(p.line) > unfinishedMost || out.Len() < 4*unfinishedMost {
			t.Errorf("%d bytes are kept, %d passed on", len(p.line), out.Len())
		}
		p.Flush()
	})
}
