package process

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// drainLimit bounds what one drain takes, in bytes. It is the largest pipe a
// plain user may have (pipe(7), /proc/sys/fs/pipe-max-size), so everything that
// was written before the drain began is within it.
const drainLimit = 1 << 20

// copier carries one output of the child from its pipe to a writer, until the
// pipe ends or it is told to stop.
type copier struct {
	r     *os.File
	w     io.Writer
	tail  *tail
	which int
	tap   *lineTap      // nil when nothing is looked for, any more; for run
	done  chan struct{} // closed when run has returned

	mu     sync.Mutex
	drains []chan struct{} // asked for, not yet served
	final  bool
}

func newCopier(r *os.File, w io.Writer, t *tail, which int) *copier {
	if w == nil {
		w = io.Discard
	}
	return &copier{r: r, w: w, tail: t, which: which, done: make(chan struct{})}
}

// run ends when every holder of the pipe's write end has closed it, or after
// end. A writer that fails does not end it: the child must not be blocked or
// killed because nobody takes its output.
func (c *copier) run() {
	defer close(c.done)
	defer c.r.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := c.r.Read(buf)
		c.emit(buf[:n])
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || c.serve(buf) {
			return
		}
	}
}

func (c *copier) emit(p []byte) {
	if len(p) == 0 {
		return
	}
	c.tail.add(c.which, p)
	_, _ = c.w.Write(p)
	if c.tap != nil && !c.tap.add(p) {
		c.tap = nil
	}
}

// serve does what was asked for and reports whether the copier is to end.
func (c *copier) serve(buf []byte) bool {
	c.mu.Lock()
	drains, final := c.drains, c.final
	c.drains = nil
	_ = c.r.SetReadDeadline(time.Time{})
	c.mu.Unlock()
	eof := c.drain(buf)
	for _, d := range drains {
		close(d)
	}
	return final || eof
}

// drain carries what is in the pipe now, without waiting for more, and reports
// whether the pipe has ended.
func (c *copier) drain(buf []byte) (eof bool) {
	raw, err := c.r.SyscallConn()
	if err != nil {
		return true
	}
	left := drainLimit
	_ = raw.Read(func(fd uintptr) bool {
		for left > 0 {
			n, err := syscall.Read(int(fd), buf)
			if err == syscall.EINTR {
				continue
			}
			if n <= 0 {
				eof = n == 0 && err == nil
				break
			}
			left -= n
			c.emit(buf[:n])
		}
		return true
	})
	return eof
}

// settle asks for everything that is already in the pipe to be carried; the
// channel is closed when that is done.
func (c *copier) settle() <-chan struct{} {
	d := make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drains = append(c.drains, d)
	_ = c.r.SetReadDeadline(time.Unix(1, 0))
	return d
}

// end makes run carry what is in the pipe and return.
func (c *copier) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.final = true
	_ = c.r.SetReadDeadline(time.Unix(1, 0))
}
