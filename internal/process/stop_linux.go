package process

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

const (
	firstLook = 10 * time.Millisecond  // pause before the second look at a tree that is being stopped
	lastLook  = 250 * time.Millisecond // it doubles up to this; events come in between
	nagEvery  = time.Minute            // warnings about processes that do not die
)

// Stop implements pool.Life: stop signal and SIGCONT to every member of the
// tree, SIGKILL after the stop timeout or as soon as the ctx of any caller is
// done. It returns when all are gone and reaped, however long that takes:
// a process in uninterruptible sleep cannot be killed, only waited for.
func (l *life) Stop(ctx context.Context) {
	l.mu.Lock()
	if l.phase == running {
		l.phase = halting
		go l.halt()
	}
	l.mu.Unlock()
	l.stopAsking(errStopped)
	select {
	case <-l.gone:
		return
	case <-ctx.Done():
	}
	l.mu.Lock()
	if !l.forced {
		l.forced = true
		close(l.force)
	}
	l.mu.Unlock()
	<-l.gone
}

// halt ends the tree. It runs once, for all callers of Stop.
func (l *life) halt() {
	signal, timeout := l.res.stop.now()
	s := &stop{life: l, signal: signal, asked: map[ident]bool{}, look: firstLook, force: l.force, dead: l.dead}
	grace := time.NewTimer(timeout)
	defer grace.Stop()
	s.grace = grace.C
	if timeout <= 0 {
		s.useForce()
	}
	for s.step() {
	}
	<-l.told
	l.finish()
	close(l.gone)
}

// stop is one stop under way.
type stop struct {
	life   *life
	signal unix.Signal
	asked  map[ident]bool // got the stop signal
	look   time.Duration  // pause before the next look, without events
	forced bool
	nag    time.Time // next warning, once forced
	failed error     // last signal that could not be sent

	grace <-chan time.Time
	force <-chan struct{}
	dead  <-chan struct{}
}

// step looks at the tree once, sends what is due and waits for a change. It
// reports whether anybody is left.
func (s *stop) step() bool {
	changed := s.life.res.host.events()
	left := s.life.tree.members()
	select {
	case <-s.life.dead:
		if len(left) == 0 && !s.life.anyLeft() {
			return false
		}
	default:
	}
	if s.forced {
		s.kill(left)
	} else {
		s.ask(left)
	}
	s.wait(changed)
	return true
}

// ask sends the stop signal to everybody who did not get it yet, parents
// first so that they cannot take the end of a child for a failure. SIGCONT lets
// stopped ones notice it (signal(7)).
func (s *stop) ask(left []proc) {
	if !s.sees(left) {
		s.askGroup()
	}
	s.life.res.host.hidden(s.askHidden)
	for _, p := range left {
		if s.asked[p.ident] {
			continue
		}
		if s.send(p.ident, s.signal) == unix.EMFILE {
			continue // the next look asks it
		}
		s.asked[p.ident] = true
		_ = s.send(p.ident, unix.SIGCONT)
	}
}

// sees is false when the child is not in the table though it lives: /proc is
// not there, or hides other users' processes (hidepid in proc(5)).
func (s *stop) sees(left []proc) bool {
	select {
	case <-s.life.dead:
		return true
	default:
	}
	for _, p := range left {
		if p.pid == s.life.Pid() {
			return true
		}
	}
	_, visible := readProc(s.life.Pid())
	return visible
}

// askGroup asks whom we cannot see, as a group, once.
func (s *stop) askGroup() {
	if head := s.life.tree.head; !s.asked[head] {
		s.asked[head] = true
		s.note(unix.Kill(-head.pid, s.signal))
		s.note(unix.Kill(-head.pid, unix.SIGCONT))
	}
}

// askHidden asks an orphan of ours that we cannot see, once.
func (s *stop) askHidden(pid int) {
	if id := (ident{pid: pid}); !s.asked[id] {
		s.asked[id] = true
		s.note(unix.Kill(pid, s.signal))
		s.note(unix.Kill(pid, unix.SIGCONT))
	}
}

// kill: the group at once, which leaves nobody in it the time to fork, then
// everybody by himself. The group is still the child's because its zombie is
// not reaped.
func (s *stop) kill(left []proc) {
	s.note(unix.Kill(-s.life.Pid(), unix.SIGKILL))
	for _, p := range left {
		_ = s.send(p.ident, unix.SIGKILL)
	}
	s.life.res.host.hidden(func(pid int) { s.note(unix.Kill(pid, unix.SIGKILL)) })
	if now := time.Now(); now.After(s.nag) {
		if !s.nag.IsZero() {
			s.complain(left)
		}
		s.nag = now.Add(nagEvery)
	}
}

func (s *stop) complain(left []proc) {
	s.life.res.log.Warn("processes of the child do not die though they were killed",
		"service", s.life.res.cmd.Service, "pids", pidsOf(left), "err", s.failed)
}

func (s *stop) send(id ident, sig unix.Signal) error {
	err := signalProc(id, sig)
	s.note(err)
	return err
}

func (s *stop) note(err error) {
	if err == nil || err == unix.ESRCH || err == unix.EMFILE {
		return
	}
	if s.failed == nil {
		s.life.res.log.Warn("a process of the child cannot be signalled: stopping another user's processes needs CAP_KILL",
			"service", s.life.res.cmd.Service, "err", err)
	}
	s.failed = err
}

func (s *stop) useForce() {
	s.forced, s.look = true, firstLook
	s.force, s.grace = nil, nil
	s.life.mu.Lock()
	select {
	case <-s.life.dead:
	default:
		s.life.killed = true
	}
	s.life.mu.Unlock()
}

// wait returns when there may be news.
func (s *stop) wait(changed <-chan struct{}) {
	pause := time.NewTimer(s.look)
	defer pause.Stop()
	select {
	case <-changed:
	case <-pause.C:
		s.look = min(2*s.look, lastLook)
	case <-s.dead:
		s.dead = nil
	case <-s.grace:
		s.useForce()
	case <-s.force:
		s.useForce()
	}
}
