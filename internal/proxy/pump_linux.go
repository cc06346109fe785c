package proxy

import (
	"cmp"
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ending is how a step of a direction came out.
type ending uint8

const (
	more    ending = iota // go on
	atEnd                 // the source has ended
	srcGone               // the source's peer is gone; everything it sent was delivered
	dstGone               // the destination's peer is gone
	stalled               // the source's peer is gone and the destination takes no more
	stopped               // somebody else has decided that this is over
)

// pump moves the bytes of one direction. Its goroutine owns it. While it waits
// for its source it holds neither a buffer nor a pipe.
type pump struct {
	r        *relay
	src, dst *leg
	moved    atomic.Int64 // bytes taken by the destination

	// probing: no byte was sent yet. The first ones are taken from the source
	// only after the destination has taken them, so that they can be sent
	// again elsewhere.
	probing bool
	bulk    bool // the last read suggests that splice pays
	copying bool // splice does not work here

	// What was read and not yet written: in buf or, with a pipe, in that.
	buf    *[bufferSize]byte
	data   []byte
	pipe   *pipe
	inPipe int

	// Results of the callbacks below.
	n   int
	err error

	// armed: the destination has a write deadline, which wakes us while we
	// wait for it. wait measures how long it has taken nothing.
	armed bool
	wait  progress

	// The callbacks, made once.
	onReadable, onWritable, onEvent func(fd uintptr) bool
	orphan                          bool // the source's peer, on a unix socket, has closed it
}

// init makes p the direction from src to dst.
func (p *pump) init(r *relay, src, dst *leg) {
	p.r, p.src, p.dst = r, src, dst
	p.onReadable, p.onWritable, p.onEvent = p.read, p.write, p.look
}

// run moves bytes until the direction is over, passes its end on, and watches
// the source for a reset until the whole connection is over.
func (p *pump) run() {
	defer p.r.pumpEnded()
	how := p.carry()
	p.putBack()
	ended := how == atEnd
	if ended {
		if how = p.passEnd(); how == more {
			how = p.watch()
		}
	}
	switch how {
	case srcGone:
		p.r.lose(p.src)
		if p.r.lost(p.src) && !p.r.untouched() {
			p.passReset(ended)
		}
	case dstGone:
		p.r.lose(p.dst)
	}
}

// passReset prepares the reset of the destination: it is to come behind
// everything that the source's peer sent before it was gone, its end included.
func (p *pump) passReset(ended bool) {
	if !ended && p.n == 0 && p.err == nil && p.src.endedBeforeError() {
		_ = p.dst.finish() // a destination that is gone as well needs no end
	}
	p.r.settle(p.dst)
}

// carry moves bytes until the source ends or one side is gone.
func (p *pump) carry() ending {
	for {
		if how := p.fill(); how != more {
			return how
		}
		if how := p.drain(); how != more {
			return how
		}
	}
}

// fill waits for bytes from the source and takes them.
func (p *pump) fill() ending {
	for {
		p.n, p.err = 0, nil
		err := p.src.raw.Read(p.onReadable)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if how := p.r.woken(p); how != more {
				return how
			}
		case closedHere(err): // by kill
			return stopped
		case err != nil || p.err != nil:
			p.src.note(cmp.Or(p.err, err))
			return srcGone
		case p.n > 0:
			p.r.vigil.touch()
			return more
		case p.src.verdict() != nil:
			return srcGone
		default:
			return atEnd
		}
	}
}

// read takes what the source has. It reports false when there is nothing.
func (p *pump) read(fd uintptr) bool {
	if p.bulk && p.takePipe() {
		return p.readPipe(int(fd))
	}
	if p.buf == nil {
		p.buf = p.r.w.buffers.Get().(*[bufferSize]byte)
	}
	n, err := receive(int(fd), p.buf[:], p.probing)
	if err == unix.EAGAIN {
		p.putBack()
		return false
	}
	p.n, p.err = max(n, 0), err
	p.data = p.buf[:p.n]
	p.bulk = n == bufferSize && !p.copying && !p.probing
	return true
}

// readPipe is read into the pipe, which is empty.
func (p *pump) readPipe(fd int) bool {
	n, err := p.pipe.fill(fd)
	if (n == 0 && err == nil || err == unix.EAGAIN) && pending(fd) {
		// splice(2) does not get past an urgent byte: it seems to be the end of
		// the stream, or of what there is.
		p.bulk = false
		p.putBack()
		return p.read(uintptr(fd))
	}
	switch err {
	case nil:
		p.n, p.inPipe = n, n
		p.bulk = n >= bufferSize
		return true
	case unix.EAGAIN:
		p.putBack()
		return false
	case unix.EINVAL, unix.ENOSYS, unix.EPERM:
		p.copying, p.bulk = true, false
		p.putBack()
		return p.read(uintptr(fd))
	default:
		p.err = err
		return true
	}
}

// drain writes everything that was read.
func (p *pump) drain() ending {
	p.wait = progress{limit: p.r.w.limits.stall}
	for len(p.data) > 0 || p.inPipe > 0 {
		p.n, p.err = 0, nil
		err := p.dst.raw.Write(p.onWritable)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if how := p.blocked(); how != more {
				return how
			}
		case closedHere(err):
			return stopped
		case err != nil || p.err != nil:
			p.dst.note(cmp.Or(p.err, err))
			return dstGone
		case p.probing:
			if how := p.consume(p.n); how != more {
				return how
			}
		}
	}
	if p.pipe == nil || !p.bulk {
		p.putBack()
	}
	return more
}

// write gives the destination what it takes. It reports false when there is
// more and the destination is full.
func (p *pump) write(fd uintptr) bool {
	for len(p.data) > 0 || p.inPipe > 0 {
		n, err := p.send(int(fd))
		switch err {
		case nil:
			p.n += n
			p.moved.Add(int64(n))
			p.r.vigil.touch()
			if p.probing {
				return true
			}
		case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
			p.arm()
			return false
		default:
			p.err = err
			return true
		}
	}
	return true
}

// send writes once.
func (p *pump) send(fd int) (int, error) {
	if p.inPipe > 0 {
		n, err := p.pipe.drain(fd, p.inPipe)
		p.inPipe -= n
		return n, err
	}
	n, err := transmit(fd, p.data)
	p.data = p.data[n:]
	return n, err
}

// consume takes the n bytes that the destination has taken from the source,
// which had only been asked for a copy. The rest is read again.
func (p *pump) consume(n int) ending {
	p.probing, p.data = false, nil
	p.src.control(func(fd int) {
		for n > 0 && p.err == nil {
			var took int
			if took, p.err = discard(fd, p.buf[:n]); took == 0 {
				return
			}
			n -= max(took, 0)
		}
	})
	switch {
	case n == 0:
		return more
	case p.err == nil: // closed by kill
		return stopped
	default:
		p.src.note(p.err)
		return srcGone
	}
}

// arm makes the wait for the destination end after a tick.
func (p *pump) arm() {
	if !p.armed {
		p.armed = true
		p.dst.conn.SetWriteDeadline(time.Now().Add(p.r.w.limits.tick))
	}
}

// blocked looks at the source while the destination takes nothing: nobody else
// does. A destination that takes nothing is only given up when the source's
// peer is gone.
func (p *pump) blocked() ending {
	p.armed = false
	p.dst.conn.SetWriteDeadline(time.Time{})
	if p.r.lost(p.dst) {
		return stopped
	}
	if p.src == &p.r.up {
		p.r.upstreamMayBeOver()
	}
	if p.src.verdict() == nil {
		return more
	}
	p.r.lose(p.src)
	if p.wait.stalled(p.moved.Load() - int64(p.dst.unacknowledged())) {
		return stalled
	}
	return more
}

// passEnd ends the destination's input. more means that the other direction
// still goes on.
func (p *pump) passEnd() ending {
	if p.r.otherEnded() {
		p.r.directionEnded(p) // closing the sockets tells the destination
		return stopped
	}
	if err := p.dst.finish(); err != nil {
		if closedHere(err) {
			return stopped
		}
		if p.dst.verdict() == nil {
			p.dst.note(syscall.ECONNRESET) // ENOTCONN: the socket is dead
		}
		return dstGone
	}
	if p.r.directionEnded(p) {
		return stopped
	}
	return more
}

// watch waits until the source, which has ended, is reset, or the connection
// is over. After a FIN the kernel tells readers nothing of a reset, only poll(2).
func (p *pump) watch() ending {
	for {
		err := p.src.raw.Read(p.onEvent)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if how := p.r.woken(p); how != more {
				return how
			}
			if p.r.lost(p.src) {
				return srcGone
			}
			if p.orphan {
				p.src.note(syscall.EPIPE)
				return srcGone
			}
		case closedHere(err):
			return stopped
		case err != nil:
			p.src.note(err)
			return srcGone
		case p.src.verdict() != nil:
			return srcGone
		default: // a peer on a unix socket is gone; it may have left before it was answered
			p.orphan = true
			if p.src == &p.r.up {
				p.r.release()
			}
			p.r.alarm(p, p.r.w.limits.orphan)
		}
	}
}

// look reports whether the peer of a source that has ended is gone. A reset
// leaves a dead socket behind, which shows as POLLHUP; so does a socket of
// which we have ended the other direction as well, which is no news.
func (p *pump) look(fd uintptr) bool {
	return pollEvents(int(fd))&unix.POLLHUP != 0 && !p.orphan && !p.src.ourEndSent()
}

// takePipe makes sure that there is a pipe, if one can be had.
func (p *pump) takePipe() bool {
	if p.pipe == nil {
		p.pipe = p.r.w.pipes.take()
	}
	if p.pipe == nil {
		p.bulk = false
	}
	return p.pipe != nil
}

// putBack gives buffer and pipe back. Bytes that are still in them are lost.
func (p *pump) putBack() {
	p.data = nil
	if p.buf != nil {
		p.r.w.buffers.Put(p.buf)
		p.buf = nil
	}
	if p.pipe == nil {
		return
	}
	if p.inPipe == 0 {
		p.r.w.pipes.give(p.pipe)
	} else {
		p.r.w.pipes.scrap(p.pipe)
	}
	p.pipe, p.inPipe = nil, 0
}

// receive is recv(2); with peek it leaves the bytes where they are.
func receive(fd int, b []byte, peek bool) (int, error) {
	for {
		var n int
		var err error
		if peek {
			n, _, err = unix.Recvfrom(fd, b, unix.MSG_PEEK)
		} else {
			n, err = quickRead(fd, b)
		}
		if err != unix.EINTR {
			return n, err
		}
	}
}

// pending reports whether there are bytes to be received: SIOCINQ in tcp(7),
// which unlike recv(2) leaves an error for whoever will note it.
func pending(fd int) bool {
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	return err == nil && n > 0
}

// discard takes len(b) bytes that are there. MSG_TRUNC spares the copy on TCP:
// see tcp(7).
func discard(fd int, b []byte) (int, error) {
	for {
		n, _, err := unix.Recvfrom(fd, b, unix.MSG_TRUNC)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// transmit is send(2). It returns 0 with an error, never -1.
func transmit(fd int, b []byte) (int, error) {
	for {
		n, err := quickWrite(fd, b)
		if err == unix.EINTR {
			continue
		}
		return max(n, 0), err
	}
}
