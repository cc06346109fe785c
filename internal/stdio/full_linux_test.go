package stdio

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fullDisk is a descriptor on a disk without room, until room is called: then
// it is an empty file, whose path is returned.
func fullDisk(t *testing.T) (fd int, room func() string) {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { full.Close() })
	return int(full.Fd()), func() string {
		path := filepath.Join(t.TempDir(), "log")
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if err := unix.Dup3(int(file.Fd()), int(full.Fd()), unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		return path
	}
}

// What waits while the disk is full comes out when there is room again, in
// order; what found no place is told, once.
func TestDiskFull(t *testing.T) {
	for _, size := range []int{Limit / 2, 3 * Limit} {
		fd, room := fullDisk(t)
		drops := make(chan int64, 100)
		w := New(fd, func(n int64) { drops <- n })
		all := lines(size)
		for _, line := range all {
			mustWrite(t, w, line)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*retryEvery)
		if err := w.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush on a full disk: %v", err)
		}
		cancel()
		began := time.Now()
		path := room()
		mustFlush(t, w)
		t.Logf("written %v after there was room", time.Since(began))
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Join(all, nil)
		if !bytes.HasPrefix(want, got) {
			t.Error("what came out is not what was written first")
		}
		if lost := int64(len(want) - len(got)); lost > 0 {
			if told := waitFor(t, drops, "the number of dropped bytes"); told != lost {
				t.Errorf("%d bytes are missing, %d were told", lost, told)
			}
		} else if size > Limit {
			t.Error("nothing was dropped, the test is too small")
		}
		if len(drops) > 0 {
			t.Error("told more than once")
		}
		w.Close()
		waitFor(t, w.ended, "the goroutine's end")
	}
}

// A full disk does not hold up the end.
func TestDiskFull_CloseEndsTheGoroutine(t *testing.T) {
	fd, _ := fullDisk(t)
	w := New(fd, nil)
	mustWrite(t, w, []byte("x"))
	w.Close()
	waitFor(t, w.ended, "the goroutine's end")
}

func TestPassing(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, tt := range []struct {
		file *os.File
		err  error
		want bool
	}{
		{file, unix.ENOSPC, true}, {file, unix.EDQUOT, true}, {file, unix.EFBIG, true}, {file, unix.EIO, true},
		{null, unix.ENOSPC, true}, {null, unix.EIO, false}, {file, unix.EPIPE, false}, {file, unix.EBADF, false}, {file, nil, false},
	} {
		if got := passing(int(tt.file.Fd()), tt.err); got != tt.want {
			t.Errorf("%v on %s passes: %v, want %v", tt.err, tt.file.Name(), got, tt.want)
		}
	}
}
