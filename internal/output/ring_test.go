package output

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func texts(lines []Line) (out []string) {
	for _, l := range lines {
		out = append(out, l.Stream+": "+l.Text)
	}
	return out
}

func TestRingKeepsLinesOfBothStreams(t *testing.T) {
	var r Ring
	stdout, stderr := r.Stream("stdout"), r.Stream("stderr")
	fmt.Fprint(stdout, "one\r\ntw")
	fmt.Fprint(stderr, "err\n\n \n")
	fmt.Fprint(stdout, "o\nthree")
	stdout.End()
	stdout.End()
	want := []string{"stdout: one", "stderr: err", "stdout: two", "stdout: three"}
	if got := texts(r.Last()); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What a child prints gives no orders to the terminal on which it is looked at.
func TestRingKeepsNoControlCharacters(t *testing.T) {
	var r Ring
	fmt.Fprint(r.Stream("stdout"), "a\x1b[2Jb\x07\u202ec\u009bd\xff\te\n")
	if got := r.Last()[0].Text; got != "a[2Jbcd\uFFFD\te" {
		t.Errorf("got %q", got)
	}
}

func TestRingIsBounded(t *testing.T) {
	var r Ring
	s := r.Stream("stdout")
	for i := range 3 * ringLines {
		fmt.Fprintln(s, i)
	}
	last := r.Last()
	if n := len(last); n > ringLines || n < ringLines/2 {
		t.Errorf("%d lines are kept", n)
	}
	if got := last[len(last)-1]; got.Text != fmt.Sprint(3*ringLines-1) || got.Seq != 3*ringLines {
		t.Errorf("the newest is %+v", got)
	}
	fmt.Fprintln(s, strings.Repeat("x", 3*lineMost))
	fmt.Fprintln(s, "short")
	last = r.Last()
	long, short := last[len(last)-2], last[len(last)-1]
	if len(long.Text) != lineMost || !long.Cut || short.Cut {
		t.Errorf("%d bytes of a long line are kept, cut %v, the next %+v", len(long.Text), long.Cut, short)
	}
	for range 2 * ringBytes / lineMost {
		fmt.Fprintln(s, strings.Repeat("y", lineMost))
	}
	size := 0
	for _, l := range r.Last() {
		size += len(l.Text)
	}
	if size > ringBytes {
		t.Errorf("%d bytes are kept", size)
	}
}

// Whoever follows gets every line once, however writing and following interleave.
func TestFollowWithoutGap(t *testing.T) {
	var r Ring
	const many = 800
	written := make(chan struct{})
	go writeLines(&r, many, written)
	var seen []Line
	past, f := r.Follow(0)
	seen = append(seen, past...)
	for len(seen) < many {
		seen = append(seen, <-f.C)
	}
	<-written
	f.Close()
	f.Close()
	if _, open := <-f.C; open || f.Lost() {
		t.Error("a follower who left goes on, or is said to be lost")
	}
	for i, l := range seen {
		if l.Seq != uint64(i+1) || l.Text != fmt.Sprint(i) {
			t.Fatalf("line %d is %+v", i, l)
		}
	}
	past, f = r.Follow(many - 3)
	defer f.Close()
	if len(past) != 3 || past[0].Seq != many-2 {
		t.Errorf("behind %d there are %+v", many-3, past)
	}
}

func writeLines(r *Ring, n int, written chan<- struct{}) {
	defer close(written)
	s := r.Stream("stdout")
	for i := range n {
		fmt.Fprintln(s, i)
	}
}

// A follower who does not read is ended; nobody waits for him.
func TestSlowFollowerIsDismissed(t *testing.T) {
	var r Ring
	_, slow := r.Follow(0)
	_, other := r.Follow(0)
	s := r.Stream("stdout")
	for i := range behindMost + 1 {
		fmt.Fprintln(s, i)
		<-other.C
	}
	n := 0
	for range slow.C {
		n++
	}
	if n != behindMost || !slow.Lost() {
		t.Errorf("it got %d lines, lost %v", n, slow.Lost())
	}
	if other.Lost() {
		t.Error("the one who reads was ended as well")
	}
	other.Close()
	if len(r.followers) != 0 {
		t.Errorf("%d followers are left", len(r.followers))
	}
}
