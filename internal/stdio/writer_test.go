package stdio

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// bound is how long a test waits for something that must happen.
const bound = 20 * time.Second

func TestMain(m *testing.M) {
	if mode := os.Getenv("STDIO_TEST_CHILD"); mode != "" {
		os.Exit(writeToNobody())
	}
	goleak.VerifyTestMain(m)
}

// newPipe returns the reading end of a pipe, and the writing one as a bare
// descriptor. Both are closed after the test, the reading end first, so that a
// blocked write ends.
func newPipe(t *testing.T, onDrop func(int64)) (*os.File, *Writer) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe(fds[:]); err != nil {
		t.Fatal(err)
	}
	unix.CloseOnExec(fds[0])
	unix.CloseOnExec(fds[1])
	r := os.NewFile(uintptr(fds[0]), "reading end")
	w := New(fds[1], onDrop)
	t.Cleanup(func() {
		r.Close()
		w.Close()
		waitFor(t, w.ended, "the Writer's goroutine to end")
		unix.Close(fds[1])
	})
	return r, w
}

func waitFor[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(bound):
		t.Fatalf("waited %v for %s", bound, what)
		panic("unreachable")
	}
}

func mustWrite(t *testing.T, w io.Writer, p []byte) {
	t.Helper()
	if n, err := w.Write(p); n != len(p) || err != nil {
		t.Fatalf("Write of %d bytes = %d, %v; a Writer always takes all", len(p), n, err)
	}
}

func mustRead(t *testing.T, r io.Reader, n int) []byte {
	t.Helper()
	got := make(chan []byte, 1)
	go readInto(got, r, n)
	return waitFor(t, got, fmt.Sprintf("%d bytes", n))
}

func readInto(got chan<- []byte, r io.Reader, n int) {
	p := make([]byte, n)
	n, _ = io.ReadFull(r, p)
	got <- p[:n]
}

func mustFlush(t *testing.T, w *Writer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	if err := w.Flush(ctx); err != nil {
		t.Fatalf("Flush: %v", err)
	}
}

// lines returns n numbered lines of differing lengths, at least size bytes in all.
func lines(size int) [][]byte {
	var all [][]byte
	for i := 0; size > 0; i++ {
		line := fmt.Appendf(nil, "line %d %s\n", i, strings.Repeat("x", i%301))
		all = append(all, line)
		size -= len(line)
	}
	return all
}

func TestWhatIsAcceptedComesOutExactly(t *testing.T) {
	r, w := newPipe(t, func(n int64) { t.Errorf("dropped %d bytes below the limit", n) })
	want := make([]byte, Limit)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	for rest := want; len(rest) > 0; {
		n := min(len(rest), 1+rand.IntN(30_000))
		mustWrite(t, w, rest[:n])
		rest = rest[n:]
	}
	if got := mustRead(t, r, len(want)); !bytes.Equal(got, want) {
		t.Error("the bytes differ")
	}
	mustFlush(t, w)
}

func TestNobodyReads(t *testing.T) {
	drops := make(chan int64, 100)
	r, w := newPipe(t, func(n int64) { drops <- n })
	all := lines(3 * Limit)
	began := time.Now()
	for _, line := range all {
		mustWrite(t, w, line)
	}
	if took := time.Since(began); took > bound {
		t.Errorf("writing to a stuck pipe took %v", took)
	}
	written := bytes.Join(all, nil)

	// Reading goes on while the goroutine writes the rest, so the episode ends
	// only once something was read.
	got := mustRead(t, r, resume+piece)
	lost := waitFor(t, drops, "the number of dropped bytes")
	rest := len(written) - int(lost) - len(got)
	if rest < 0 {
		t.Fatalf("%d bytes said to be lost of %d, but %d were read", lost, len(written), len(got))
	}
	got = append(got, mustRead(t, r, rest)...)
	if !bytes.Equal(got, written[:len(got)]) {
		t.Error("what was read is no prefix of what was written")
	}
	if longest := 400; len(got) < Limit-longest {
		t.Errorf("only %d bytes were kept, want about %d", len(got), Limit)
	}
	if got[len(got)-1] != '\n' {
		t.Error("the last line was cut")
	}

	mustWrite(t, w, []byte("after\n"))
	if got := mustRead(t, r, 6); string(got) != "after\n" {
		t.Errorf("after the gap came %q", got)
	}
	mustFlush(t, w)
	if len(drops) != 0 {
		t.Errorf("%d more episodes told, want one", len(drops))
	}
}

// TestEpisodesAreCountedOneByOne stops reading twice. Small writes that would
// still fit belong to the gap too.
func TestEpisodesAreCountedOneByOne(t *testing.T) {
	drops := make(chan int64, 100)
	r, w := newPipe(t, func(n int64) { drops <- n })
	chunk := bytes.Repeat([]byte{'x'}, 100_000)
	for range 2 {
		for range 20 {
			mustWrite(t, w, chunk)
		}
		mustWrite(t, w, []byte("small"))
		got := mustRead(t, r, resume+piece)
		lost := waitFor(t, drops, "the number of dropped bytes")
		got = append(got, mustRead(t, r, 20*len(chunk)+5-len(got)-int(lost))...)
		if bytes.Contains(got, []byte("small")) || len(got)%len(chunk) != 0 {
			t.Errorf("%d bytes read, %d lost: the gap is not one piece", len(got), lost)
		}
		mustFlush(t, w)
	}
}

func TestNeverMoreThanTheLimitWaits(t *testing.T) {
	_, w := newPipe(t, nil)
	chunk := make([]byte, 1000)
	for range 4 * Limit / len(chunk) {
		mustWrite(t, w, chunk)
		w.mu.Lock()
		waiting := len(w.queue) + w.flying
		w.mu.Unlock()
		if waiting > Limit {
			t.Fatalf("%d bytes wait", waiting)
		}
	}
}

func TestDropLineMayGoToTheSameWriter(t *testing.T) {
	var w *Writer
	ready := make(chan struct{})
	r, w := newPipe(t, func(n int64) {
		<-ready
		fmt.Fprintf(w, "[%d lost]\n", n)
	})
	close(ready)
	total := 0
	for range 2 * Limit / 1000 {
		mustWrite(t, w, bytes.Repeat([]byte{'x'}, 1000))
		total += 1000
	}
	kept, line := 0, ""
	br := bufio.NewReader(r)
	for line == "" {
		c, err := br.ReadByte()
		if err != nil {
			t.Fatal(err)
		}
		if c != 'x' {
			rest, _ := br.ReadString('\n')
			line = string(c) + rest
			break
		}
		kept++
	}
	if want := fmt.Sprintf("[%d lost]\n", total-kept); line != want {
		t.Errorf("line = %q after %d of %d bytes, want %q", line, kept, total, want)
	}
}

func TestAnOversizedWriteIsDroppedAndTold(t *testing.T) {
	drops := make(chan int64, 10)
	r, w := newPipe(t, func(n int64) { drops <- n })
	mustWrite(t, w, make([]byte, Limit+1))
	if n := waitFor(t, drops, "the drop to be told"); n != Limit+1 {
		t.Errorf("told %d, want %d", n, Limit+1)
	}
	mustWrite(t, w, []byte("small"))
	if got := mustRead(t, r, 5); string(got) != "small" {
		t.Errorf("got %q", got)
	}
}

// TestManyWriters checks that lines of many goroutines come out whole, and
// each goroutine's in order, with none missing that was not counted.
func TestManyWriters(t *testing.T) {
	const writers, each = 8, 2000
	var mu sync.Mutex
	var lost int64
	r, w := newPipe(t, func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		lost += n
	})
	read := make(chan map[int][]int, 1)
	var got int64
	go func() { read <- readNumbered(t, r, &got) }()
	var wg sync.WaitGroup
	var total int64
	for i := range writers {
		for n := range each {
			total += int64(len(numbered(i, n)))
		}
		wg.Go(func() { writeNumbered(w, i, each) })
	}
	wg.Wait()
	mustFlush(t, w)
	mustWrite(t, w, []byte("end\n")) // an empty queue ends every episode
	mustFlush(t, w)
	w.Close()
	waitFor(t, w.ended, "the last episode to be told")
	for i, ns := range waitFor(t, read, "all lines") {
		for k := 1; k < len(ns); k++ {
			if ns[k] <= ns[k-1] {
				t.Fatalf("writer %d: line %d after line %d", i, ns[k], ns[k-1])
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if got+lost != total {
		t.Errorf("%d bytes read + %d lost != %d written", got, lost, total)
	}
}

func numbered(writer, n int) []byte {
	return fmt.Appendf(nil, "%d %d %s\n", writer, n, strings.Repeat("y", n%97))
}

func writeNumbered(w io.Writer, writer, each int) {
	for n := range each {
		w.Write(numbered(writer, n))
	}
}

// readNumbered reads up to the line "end".
func readNumbered(t *testing.T, r io.Reader, got *int64) map[int][]int {
	seen := make(map[int][]int)
	s := bufio.NewScanner(r)
	for s.Scan() && s.Text() != "end" {
		*got += int64(len(s.Bytes())) + 1
		var writer, n int
		if _, err := fmt.Sscanf(s.Text(), "%d %d", &writer, &n); err != nil {
			t.Errorf("broken line %q", s.Text())
			continue
		}
		if want := string(numbered(writer, n)); s.Text()+"\n" != want {
			t.Errorf("line %q, want %q", s.Text(), want)
		}
		seen[writer] = append(seen[writer], n)
	}
	return seen
}

func TestFlushIsBound(t *testing.T) {
	r, w := newPipe(t, nil)
	mustWrite(t, w, make([]byte, Limit))
	gone := errors.New("enough waited")
	ctx, cancel := context.WithCancelCause(t.Context())
	flushed := make(chan error, 1)
	go func() { flushed <- w.Flush(ctx) }()
	cancel(gone)
	if err := waitFor(t, flushed, "Flush to give up"); !errors.Is(err, gone) {
		t.Errorf("Flush = %v, want %v", err, gone)
	}
	if got := mustRead(t, r, Limit); len(got) != Limit {
		t.Errorf("%d bytes after a Flush that gave up, want %d", len(got), Limit)
	}
	mustFlush(t, w)
}

func TestFlushOfNothing(t *testing.T) {
	_, w := newPipe(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Flush(ctx); err != nil {
		t.Errorf("Flush of an empty Writer = %v", err)
	}
}

func TestReaderGone(t *testing.T) {
	r, w := newPipe(t, func(n int64) { t.Errorf("told of %d bytes that nobody can miss", n) })
	mustWrite(t, w, make([]byte, Limit))
	flushed := make(chan error, 1)
	go func() { flushed <- w.Flush(t.Context()) }()
	r.Close()
	if err := waitFor(t, flushed, "Flush to see the broken pipe"); err != nil {
		t.Errorf("Flush = %v", err)
	}
	waitFor(t, w.ended, "the goroutine to end")
	for range 10 {
		mustWrite(t, w, make([]byte, Limit/2))
	}
	if w.queue != nil {
		t.Errorf("%d bytes kept for nobody", len(w.queue))
	}
	mustFlush(t, w)
}

func TestDescriptorNotOpen(t *testing.T) {
	w := New(1<<20, nil)
	defer w.Close()
	mustWrite(t, w, []byte("for nobody"))
	waitFor(t, w.ended, "the goroutine to end")
	mustFlush(t, w)
}

// TestNonblockingDescriptor: whoever shares the open file description may
// make it non-blocking, which must lose nothing.
func TestNonblockingDescriptor(t *testing.T) {
	r, w := newPipe(t, nil)
	if err := unix.SetNonblock(w.fd, true); err != nil {
		t.Fatal(err)
	}
	want := bytes.Join(lines(Limit/2), nil)
	mustWrite(t, w, want)
	if got := mustRead(t, r, len(want)); !bytes.Equal(got, want) {
		t.Error("the bytes differ")
	}
}

func TestCloseDoesNotWait(t *testing.T) {
	_, w := newPipe(t, nil)
	mustWrite(t, w, make([]byte, Limit))
	for range 2 {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	mustFlush(t, w)
	mustWrite(t, w, []byte("too late"))
	// newPipe's cleanup closes the reading end and checks the goroutine's end.
}

func TestCloseEndsTheGoroutine(t *testing.T) {
	_, w := newPipe(t, nil)
	w.Close()
	waitFor(t, w.ended, "the goroutine to end")
}

func TestMemoryIsGivenBack(t *testing.T) {
	r, w := newPipe(t, nil)
	for range 16 {
		mustWrite(t, w, make([]byte, Limit/16))
	}
	mustRead(t, r, Limit)
	mustFlush(t, w)
	// Flush ends with the last write; the goroutine gives the buffer back
	// right after it.
	for deadline := time.Now().Add(bound); ; {
		w.mu.Lock()
		n := cap(w.queue)
		w.mu.Unlock()
		if n <= keep {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("an empty queue holds %d bytes, want at most %d", n, keep)
		}
	}
}

// TestBrokenStdoutDoesNotEndTheProgram runs this binary with its standard
// output closed on the other side: on descriptor 1 that is where the Go runtime
// would raise SIGPIPE.
func TestBrokenStdoutDoesNotEndTheProgram(t *testing.T) {
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "STDIO_TEST_CHILD=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stdout = out
	cmd.Stderr = out
	err = cmd.Run()
	out.Close()
	if err != nil {
		t.Errorf("the program ended with %v, want exit status 0", err)
	}
}

// writeToNobody is the child of TestBrokenStdoutDoesNotEndTheProgram.
func writeToNobody() int {
	for _, fd := range []int{1, 2} {
		w := New(fd, nil)
		io.WriteString(w, "hello\n")
		select {
		case <-w.ended:
		case <-time.After(bound):
			return 3
		}
		io.WriteString(w, "hello again\n")
	}
	return 0
}

func BenchmarkWriteLine(b *testing.B) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	w := New(int(null.Fd()), nil)
	defer w.Close()
	line := []byte(strings.Repeat("l", 120) + "\n")
	b.ReportAllocs()
	for b.Loop() {
		w.Write(line)
	}
}
