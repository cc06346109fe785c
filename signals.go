package main

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// signals turns what the system sends into two requests: stop, and stop now.
type signals struct {
	in      chan os.Signal
	quit    chan struct{}  // closed by close
	ended   chan struct{}  // closed when watch has ended
	onUsage func()         // called for SIGUSR1
	onHup   func()         // called for SIGHUP; nil: it stops, too
	asked   chan os.Signal // holds the signal that asked to stop, once
	now     chan struct{}  // closed by the second one
	closing sync.Once
}

// catchSignals begins to catch signals. Nothing is lost between this and
// watch. SIGHUP stays ignored if it was at start, which is what nohup is about.
//
// SIGPIPE is caught and forgotten, so that writing to a stdout or stderr that
// nobody reads is an error and not the end (os/signal, "SIGPIPE"). Ignoring it
// would make the child ignore it too.
func catchSignals() *signals {
	s := &signals{
		in: make(chan os.Signal, 16), quit: make(chan struct{}), ended: make(chan struct{}),
		asked: make(chan os.Signal, 1), now: make(chan struct{}),
	}
	caught := []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1}
	if !signal.Ignored(syscall.SIGHUP) {
		caught = append(caught, syscall.SIGHUP)
	}
	signal.Notify(s.in, caught...)
	if !signal.Ignored(syscall.SIGPIPE) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	}
	return s
}

// watch hands the signals on until close. onUsage is called for SIGUSR1, onHup, if
// there is one, for SIGHUP, which asks to stop otherwise.
func (s *signals) watch(onUsage, onHup func()) {
	s.onUsage, s.onHup = onUsage, onHup
	go s.loop()
}

func (s *signals) loop() {
	defer close(s.ended)
	stops := 0
	for {
		select {
		case <-s.quit:
			return
		case sig := <-s.in:
			switch {
			case sig == syscall.SIGUSR1:
				s.onUsage()
			case sig == syscall.SIGHUP && s.onHup != nil:
				s.onHup()
			default:
				stops++
				s.stop(stops, sig)
			}
		}
	}
}

// stop passes on the first request to stop, and the second.
func (s *signals) stop(n int, sig os.Signal) {
	switch n {
	case 1:
		s.asked <- sig
	case 2:
		close(s.now)
	}
}

// close ends watch. The signals stay caught: one that comes while the program
// is leaving must not change its exit status.
func (s *signals) close() {
	s.closing.Do(func() { close(s.quit) })
	<-s.ended
}
