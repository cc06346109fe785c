package direct

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Path leads the clients of one service to its child, life after life. Its
// methods are safe for concurrent use. It is a pool.Hidden.
type Path struct {
	cfg    Config
	rest   atomic.Int64 // the idle time, at first that of cfg
	log    *slog.Logger
	at     place
	kernel *kernel // nil for an inherited listener

	// The fields below are guarded by mu, which is held for bpf(2) too where
	// what the kernel does and what we believe must not part.
	mu      sync.Mutex
	watch   *watch  // of the newest life; nil before the first
	places  []place // where its clients come in
	retired uint64  // the life that nobody is led to while its end is decided; 0 = none
	closed  bool
}

// Open attaches the path. It leads nobody anywhere before Begin. The error says
// what this system, or our rights here, lack.
func Open(cfg Config) (*Path, error) {
	at, err := placeOf(cfg.Listener)
	if err != nil {
		return nil, err
	}
	if err := able(at); err != nil {
		return nil, err
	}
	k, err := attach(at)
	if err != nil {
		return nil, err
	}
	p := &Path{cfg: cfg, log: cfg.Log, at: at, kernel: k, places: []place{at}}
	p.rest.Store(int64(cfg.Idle))
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	return p, nil
}

// able tries what a Path needs of the kernel beside its program.
func able(at place) error {
	if err := canSettle(); err != nil {
		return err
	}
	if _, err := census([]place{at}, nil, 1); err != nil {
		return err
	}
	e, err := subscribe([]uint16{at.addr.Port()})
	if err != nil {
		return err
	}
	defer e.close()
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(pidfd)
	// Descriptor 0 may be closed; whether the call exists is the question.
	fd, err := unix.PidfdGetfd(pidfd, 0, 0)
	if err == nil {
		unix.Close(fd)
	} else if !errors.Is(err, unix.EBADF) {
		return fmt.Errorf("pidfd_getfd: %w", err)
	}
	return nil
}

// Begin leads clients to life gen, which is ready, until End. find is asked
// for its sockets.
func (p *Path) Begin(gen uint64, find Finder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	var before <-chan struct{}
	if p.watch != nil {
		before = p.watch.done
	}
	p.watch = newWatch(p, gen, find, before)
	p.places = []place{p.at}
	if p.retired != gen {
		p.retired = 0
		p.speakLocked(shutEmpty, shutRetired)
	}
	go p.watch.run()
}

// End leads nobody to life gen any more. It waits for nothing.
func (p *Path) End(gen uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watch != nil && p.watch.gen == gen && !p.watch.over() {
		p.speakLocked(shutEmpty, 0)
		p.watch.end()
	}
}

// Follows reports whether life gen is the one that Begin was called for last.
func (p *Path) Follows(gen uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.watch != nil && p.watch.gen == gen
}

// Again says that a client has reached the listener although its life is
// ready: its sockets may be others than they were.
func (p *Path) Again() {
	p.mu.Lock()
	w := p.watch
	p.mu.Unlock()
	if w != nil {
		poke(w.again)
	}
}

// Retire keeps new clients from life gen and reports whether nobody is
// connected to it, and nobody has been since the idle time began. See
// pool.Hidden.
func (p *Path) Retire(gen uint64) bool {
	p.mu.Lock()
	p.retired = gen
	p.speakLocked(shutRetired, 0)
	w := p.watch
	p.mu.Unlock()
	switch {
	case w != nil && w.gen == gen:
		return w.ask(w.isAlone)
	case p.inherited():
		n, err := p.census(1)
		return n == 0 && err == nil
	}
	return true // nobody was led to it, nor will be: see Begin
}

// Return undoes Retire.
func (p *Path) Return(gen uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired == gen {
		p.retired = 0
		p.speakLocked(0, shutRetired)
	}
}

// Drain leads nobody to any child any more. While somebody is connected the
// life is held, so that who stops it can wait for that.
func (p *Path) Drain() {
	p.mu.Lock()
	p.speakLocked(shutDrained, 0)
	w := p.watch
	p.mu.Unlock()
	if w != nil {
		w.ask(w.drain)
	}
}

// SetIdle changes the idle time, see Config.
func (p *Path) SetIdle(d time.Duration) {
	if p.rest.Swap(int64(d)) != int64(d) {
		p.Again()
	}
}

func (p *Path) idle() time.Duration { return time.Duration(p.rest.Load()) }

// Stats returns what was counted. It asks the kernel.
func (p *Path) Stats() Stats {
	s := Stats{Begun: p.kernel.begun()}
	p.mu.Lock()
	over := p.watch == nil || p.watch.over()
	p.mu.Unlock()
	if !over {
		// An error leaves the number out; the next look tells of it.
		s.Now, _ = p.census(math.MaxInt)
	}
	return s
}

// Close takes the path away from the kernel. Connections stay as they are.
func (p *Path) Close() {
	p.mu.Lock()
	p.closed = true
	w := p.watch
	p.mu.Unlock()
	if w != nil {
		p.End(w.gen)
		<-w.done
	}
	p.kernel.close()
}

// inherited reports whether the child takes clients from our listener itself.
func (p *Path) inherited() bool { return p.kernel == nil }

// settled waits until who has met the gate as it was is seen. Without a gate
// there is nothing to wait for.
func (p *Path) settled() error {
	if p.inherited() {
		return nil
	}
	return settled()
}

// speakLocked sets the gate. That cannot fail but after Close, when nobody is
// led anywhere: the element of an array is there as long as the array.
func (p *Path) speakLocked(add, take shutReason) { _ = p.kernel.speak(add, take) }

// lead opens the gate for a life, unless it is over.
func (p *Path) lead(w *watch, places []place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watch == w && !w.over() {
		p.places = places
		p.speakLocked(0, shutEmpty)
	}
}

// leave shuts the gate for a life that cannot be led to.
func (p *Path) leave(w *watch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watch == w {
		p.speakLocked(shutEmpty, 0)
	}
}

// clientPlaces are where clients of the newest life come in.
func (p *Path) clientPlaces() []place {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.places
}

// census counts the connections of the newest life that nobody carries, up to
// a number.
func (p *Path) census(most int) (int, error) {
	return census(p.clientPlaces(), p.cfg.Carried(), most)
}

// poke leaves a value in a channel of capacity 1.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
