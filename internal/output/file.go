package output

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// fileQueue is how much may wait for a slow disk, in bytes.
	fileQueue = 1 << 20
	// retryTime is how long a file that could not be written is left alone.
	retryTime = time.Second
	// movedTime is how often it is looked whether somebody has moved the file.
	movedTime = time.Second
	// closeTime is how long Close waits for a disk that takes nothing.
	closeTime = time.Second
)

// FileConfig says where lines are kept and how many.
type FileConfig struct {
	Path string // of the newest file; older ones are Path.1, Path.2 …
	Size int64  // a file that has grown to this is rotated, in bytes; 0 = never
	Keep int    // older files that are kept
	Log  *slog.Logger
}

// File keeps a child's output in a file that is rotated by size. Somebody else
// who moves or removes it is followed: a new one is made.
type File struct {
	cfg  FileConfig
	wake chan struct{}   // capacity 1: there is something to write
	quit context.Context // done by Close
	end  context.CancelFunc
	done chan struct{} // closed when the goroutine has ended

	mu    sync.Mutex
	queue []byte
	lost  int64 // bytes that found no place

	// Used by the goroutine only.
	f      *os.File
	size   int64
	looked time.Time // for a file that was moved
	failed bool      // the last try, and that was told
}

// NewFile keeps output in a file, which is made with mode 0640, or appended to. If
// it cannot be opened or written, that is told once and tried again every second.
func NewFile(cfg FileConfig) *File {
	f := &File{cfg: cfg, wake: make(chan struct{}, 1), done: make(chan struct{})}
	if f.cfg.Log == nil {
		f.cfg.Log = slog.New(slog.DiscardHandler)
	}
	f.quit, f.end = context.WithCancel(context.Background())
	go f.writeOut()
	return f
}

// Write queues p, whole or not at all, and always returns len(p), nil.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	if len(f.queue)+len(p) > fileQueue {
		f.lost += int64(len(p))
	} else {
		f.queue = append(f.queue, p...)
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return len(p), nil
}

// Close writes what is queued, once, and closes the file; it waits for that at
// most a second. What is written later is dropped. It must be called once.
func (f *File) Close() {
	f.end()
	late := time.NewTimer(closeTime)
	defer late.Stop()
	select {
	case <-f.done:
	case <-late.C:
	}
}

// writeOut is the file's goroutine. It ends at Close.
func (f *File) writeOut() {
	defer close(f.done)
	defer func() {
		if f.f != nil {
			f.f.Close()
		}
	}()
	if err := f.open(); err != nil {
		f.tell(err)
	}
	for {
		select {
		case <-f.wake:
			f.flush()
		case <-f.quit.Done():
			f.flush()
			return
		}
	}
}

// flush writes what is queued until nothing is, or the file gives up.
func (f *File) flush() {
	for {
		f.mu.Lock()
		batch, lost := f.queue, f.lost
		f.queue, f.lost = nil, 0
		f.mu.Unlock()
		if lost > 0 {
			f.cfg.Log.Warn("output dropped", "file", f.cfg.Path, "bytes", lost)
		}
		if len(batch) == 0 {
			return
		}
		for len(batch) > 0 {
			n, err := f.write(batch)
			batch = batch[n:]
			if err != nil && !f.again(err) {
				return // at the end there is no other time
			}
		}
	}
}

// again tells once that the file cannot be written, and waits. It reports false
// when that would be for nothing.
func (f *File) again(err error) bool {
	f.tell(err)
	pause := time.NewTimer(retryTime)
	defer pause.Stop()
	select {
	case <-pause.C:
		return true
	case <-f.quit.Done():
		return false
	}
}

// tell tells that the file cannot be written, unless that was told.
func (f *File) tell(err error) {
	if !f.failed {
		f.failed = true
		f.cfg.Log.Warn("the child's output cannot be kept", "file", f.cfg.Path, "err", err)
	}
}

// write writes some of p, at most up to the end of a line where the file is to
// be rotated. It returns how much that was.
func (f *File) write(p []byte) (int, error) {
	if err := f.ready(); err != nil {
		return 0, err
	}
	n, err := f.f.Write(p[:f.fits(p)])
	f.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("write the child's output: %w", err)
	}
	if f.failed {
		f.failed = false
		f.cfg.Log.Info("the child's output is kept again", "file", f.cfg.Path)
	}
	return n, nil
}

// fits is how much of p goes into the file before it is rotated: lines stay in
// one piece.
func (f *File) fits(p []byte) int {
	left := f.cfg.Size - f.size
	if f.cfg.Size == 0 || int64(len(p)) <= left {
		return len(p)
	}
	for i := int(max(left-1, 0)); i < len(p); i++ {
		if p[i] == '\n' {
			return i + 1
		}
	}
	return len(p)
}

// ready sees to it that there is a file with room in it.
func (f *File) ready() error {
	if f.f != nil && time.Since(f.looked) >= movedTime {
		f.looked = time.Now()
		if f.moved() {
			f.f.Close()
			f.f = nil
		}
	}
	if f.f != nil && f.cfg.Size > 0 && f.size >= f.cfg.Size {
		f.f.Close()
		f.f = nil
		if err := f.rotate(); err != nil {
			return err
		}
	}
	if f.f == nil {
		return f.open()
	}
	return nil
}

// open opens the file. On a pipe in its place it does not wait for a reader
// (open(2), ENXIO).
func (f *File) open() error {
	file, err := os.OpenFile(f.cfg.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return fmt.Errorf("keep the child's output: %w", err)
	}
	st, err := file.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", f.cfg.Path)
	}
	if err != nil {
		file.Close()
		return fmt.Errorf("keep the child's output: %w", err)
	}
	f.f, f.size, f.looked = file, st.Size(), time.Now()
	return nil
}

// moved reports whether another file, or none, has the name by now.
func (f *File) moved() bool {
	own, err := f.f.Stat()
	if err != nil {
		return true
	}
	now, err := os.Stat(f.cfg.Path)
	return err != nil || !os.SameFile(own, now)
}

// rotate gives the files their next numbers. The oldest one goes.
func (f *File) rotate() error {
	if f.cfg.Keep == 0 {
		if err := os.Remove(f.cfg.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("rotate the child's output: %w", err)
		}
		return nil
	}
	for i := f.cfg.Keep - 1; i >= 0; i-- {
		if err := os.Rename(f.name(i), f.name(i+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("rotate the child's output: %w", err)
		}
	}
	return nil
}

// name is the file's name with number i; 0 is the newest.
func (f *File) name(i int) string {
	if i == 0 {
		return f.cfg.Path
	}
	return f.cfg.Path + "." + strconv.Itoa(i)
}
