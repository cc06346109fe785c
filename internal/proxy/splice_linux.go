package proxy

import (
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is the most an unprivileged user may have. Fewer and larger
	// steps cost half the processor time of those of 256 KiB.
	pipeSize  = 1 << 20
	pipesMost = 512 // and with them the memory of peers that take nothing
	pipesKept = 16  // while nobody uses them
)

// pipe is what splice(2) moves bytes through. It is empty while nobody has it.
type pipe struct {
	r, w int
	size int
}

// pipes lends out pipes. They cost two descriptors each, of which there must
// be enough for accepting and dialing, so there is a limit; who gets none
// copies instead.
type pipes struct {
	mu    sync.Mutex
	limit int
	made  int // lent out or free
	free  []*pipe
}

// pipesLeast may always be had: their descriptors are part of spareDescriptors.
const pipesLeast = 4

// setLimit allows two descriptors for pipes per eight connections, but none
// that as many connections as there may be could need under this limit of
// descriptors.
func (p *pipes) setLimit(connections, descriptors int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = pipesMost
	if connections > 0 {
		left := (descriptors - spareDescriptors - 2*connections) / 2
		p.limit = min(max(connections/8, 1), max(left, pipesLeast), pipesMost)
	}
}

// take returns an empty pipe, or nil when there is none to be had.
func (p *pipes) take() *pipe {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		got := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return got
	}
	room := p.made < p.limit
	if room {
		p.made++
	}
	p.mu.Unlock()
	if !room {
		return nil
	}
	made := newPipe()
	if made == nil {
		p.forget()
	}
	return made
}

// give takes a pipe back. It must be empty.
func (p *pipes) give(one *pipe) {
	p.mu.Lock()
	keep := len(p.free) < pipesKept
	if keep {
		p.free = append(p.free, one)
	}
	p.mu.Unlock()
	if !keep {
		p.scrap(one)
	}
}

// scrap closes a pipe, with what is in it.
func (p *pipes) scrap(one *pipe) {
	one.close()
	p.forget()
}

// forget counts one pipe less.
func (p *pipes) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made--
}

// trim closes the pipes that nobody uses.
func (p *pipes) trim() {
	p.mu.Lock()
	old := p.free
	p.free = nil
	p.mu.Unlock()
	for _, one := range old {
		p.scrap(one)
	}
}

// newPipe returns a new pipe, or nil when the system refuses one. It is made
// larger than the default if the system allows that: see F_SETPIPE_SZ and
// /proc/sys/fs/pipe-user-pages-soft in pipe(7).
func newPipe() *pipe {
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	size, err := unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	if err != nil {
		size, err = unix.FcntlInt(uintptr(fds[0]), unix.F_GETPIPE_SZ, 0)
	}
	one := &pipe{r: fds[0], w: fds[1], size: size}
	if err != nil {
		one.close()
		return nil
	}
	return one
}

// close frees the descriptors.
func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// fill moves what the socket has into the pipe, which must be empty: only then
// does EAGAIN mean that the socket has nothing. 0 is the end of the stream.
func (p *pipe) fill(socket int) (int, error) {
	return splice(socket, p.w, p.size)
}

// drain moves n bytes, which must be in the pipe, to the socket. Asking for no
// more than there is keeps the kernel from holding back the last segment as
// MSG_MORE does.
func (p *pipe) drain(socket, n int) (int, error) {
	return splice(p.r, socket, n)
}

// splice is splice(2) without waiting.
func splice(from, to, n int) (int, error) {
	for {
		moved, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		return int(moved), nil
	}
}
