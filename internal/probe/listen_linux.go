package probe

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Local reports an error unless d is on this machine, where its listening
// socket can be seen. A name that cannot be found now is an error too. Listen
// needs it; Dial does not.
func Local(ctx context.Context, d Dest) error {
	if d.Network == "unix" {
		return nil
	}
	_, err := d.resolveLocal(ctx)
	return err
}

// Before is called before each spawn, when nothing of the last child is left.
// It returns a *StrangerError when somebody listens on Dest already, on any of
// its addresses, and another error when that cannot be found out.
func (l *Listen) Before(ctx context.Context) error {
	s, err := l.open(ctx)
	if err != nil {
		return err
	}
	defer s.tables.close()
	old, err := s.all()
	if err != nil {
		return err
	}
	l.begin(old)
	found, err := s.find()
	if err != nil || len(found) == 0 {
		return err
	}
	return newStranger(found[0].addr(), found[0].socket)
}

// begin notes what is there before a spawn.
func (l *Listen) begin(old []socket) {
	inodes := make(map[uint64]bool, len(old))
	for _, s := range old {
		inodes[s.inode] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.start = start{old: inodes, uids: ownUsers()}
}

// ownUsers are our own users, which every tree of ours had at its spawn.
func ownUsers() map[int]bool {
	return map[int]bool{unix.Getuid(): true, unix.Geteuid(): true}
}

// Wait waits until a process of tree has a listening socket that serves Dest,
// and returns the address to connect to. Somebody else who listens there keeps
// it waiting, for the child may yet get its turn. When ctx ends first, the error
// wraps its cause, says what was seen instead, and wraps a *StrangerError if
// that was a stranger.
func (l *Listen) Wait(ctx context.Context, tree Tree) (net.Addr, error) {
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	s, err := l.openRetrying(ctx, timer)
	if err != nil {
		return nil, err
	}
	defer s.tables.close()
	w := watch{listen: l, scene: s, tree: tree}
	for now := time.Now(); ; now = time.Now() {
		var addr net.Addr
		if addr, w.failed = w.look(now); addr != nil {
			return addr, nil
		}
		if !rest(ctx, timer, pause(now.Sub(began), w.cost)) {
			return nil, w.giveUp(ctx)
		}
	}
}

// shortest is below what the runtime's timers are made for: it waits for them in
// epoll_wait(2), whole milliseconds at a time.
const shortest = time.Millisecond

// rest is sleep for pauses that may be short, which hold a thread.
func rest(ctx context.Context, t *time.Timer, d time.Duration) bool {
	if d >= shortest {
		return sleep(ctx, t, d)
	}
	pause := unix.NsecToTimespec(d.Nanoseconds())
	_ = unix.Nanosleep(&pause, nil) // a signal ends it early, which does no harm
	return ctx.Err() == nil
}

// resolvePause is the time between two attempts to resolve a name while a child
// is starting.
const resolvePause = 250 * time.Millisecond

// openRetrying is open for Wait: a name that could be resolved before the spawn
// is resolved again if that fails now.
func (l *Listen) openRetrying(ctx context.Context, timer *time.Timer) (*scene, error) {
	for {
		s, err := l.open(ctx)
		if err == nil {
			return s, nil
		}
		if !sleep(ctx, timer, resolvePause) {
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// watch is one Wait.
type watch struct {
	listen   *Listen
	scene    *scene
	tree     Tree
	doubts   map[uint64]*doubt // by inode of the socket
	stranger *StrangerError    // the last one seen
	failed   error             // why the last look saw nothing
	cost     time.Duration     // of the last look at the tables, evened
}

// doubt is a socket that was not found in the tree. A process that inherits it
// may appear a moment later, so it is looked for again, but less and less often:
// looking into every process takes much longer than looking at a table.
type doubt struct {
	wait time.Duration
	next time.Time
}

const (
	doubtFirst = time.Millisecond
	doubtLast  = 250 * time.Millisecond
	doubtsKept = 64 // of a stranger who opens and closes sockets all the time
)

// look reports the address to connect to if the tree takes connections now.
func (w *watch) look(now time.Time) (net.Addr, error) {
	last, cost := w.cost, time.Duration(0)
	for _, t := range w.scene.targets {
		began := time.Now()
		f, ok, err := w.scene.findOne(t)
		cost += time.Since(began)
		w.cost = evened(cost, last)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		addr, err := w.judge(f, now)
		if addr != nil || err != nil {
			return addr, err
		}
	}
	return nil, nil
}

// evened is the cost of a look as far as it says something about the next one. On
// a busy machine some looks take long because somebody else was running.
func evened(cost, last time.Duration) time.Duration {
	if last > 0 {
		return min(cost, 2*last)
	}
	return cost
}

// judge decides whether what was found is the tree's, and returns its address
// then. It returns an error when we lack what it takes to look: then nothing can
// be said, neither that it is ready nor that it is a stranger.
func (w *watch) judge(f found, now time.Time) (net.Addr, error) {
	d := w.doubts[f.inode]
	if d != nil && now.Before(d.next) {
		return nil, nil
	}
	theirs, err := w.listen.notOurs(w.scene.group(f), w.tree)
	if err != nil {
		w.cost = max(w.cost, shortPause/9) // see pause
		return nil, err
	}
	if theirs == nil {
		return f.addr(), nil
	}
	if d == nil {
		w.firstDoubt(f.inode, now)
		return nil, nil
	}
	d.next = now.Add(d.wait)
	d.wait = min(2*d.wait, doubtLast)
	if w.stranger == nil || w.stranger.Addr.String() != f.addr().String() {
		w.stranger = newStranger(f.addr(), *theirs)
	}
	return nil, nil
}

// shortPause is the time between two looks while we lack what they take.
const shortPause = 100 * time.Millisecond

func (w *watch) firstDoubt(inode uint64, now time.Time) {
	if w.doubts == nil || len(w.doubts) >= doubtsKept {
		w.doubts = make(map[uint64]*doubt)
	}
	w.doubts[inode] = &doubt{wait: 2 * doubtFirst, next: now.Add(doubtFirst)}
}

// notOurs returns the first of the sockets that is not the tree's, nil if all
// are: if several share an address by SO_REUSEPORT, the kernel may give a client
// to any. The error is a shortage that kept us from knowing.
func (l *Listen) notOurs(all []socket, tree Tree) (*socket, error) {
	if headHolds(tree, all) {
		return nil, nil
	}
	v := lookAt(tree)
	for i, s := range all {
		if _, ok := v.sockets[s.inode]; ok {
			continue
		}
		if v.short != nil {
			return nil, v.short
		}
		if !v.blind {
			return &all[i], nil
		}
		ours, err := l.guess(s, v)
		if err != nil {
			return nil, err
		}
		if !ours {
			return &all[i], nil
		}
	}
	return nil, nil
}

// guess decides about a socket that none of the visible processes of the tree
// holds, when others of the tree cannot be looked into. It is theirs if it was
// not there before the spawn, was created by a user that the tree has or had,
// and is not seen in anybody else's hands.
func (l *Listen) guess(s socket, v sight) (bool, error) {
	if !l.mayBeOurs(s, v) {
		return false, nil
	}
	pid, _, short := lookForHolder(s.inode)
	if pid == 0 && short != nil {
		return false, short
	}
	if pid != 0 && !v.pids[pid] {
		return false, nil
	}
	if l.OnGuess != nil {
		l.guessed.Do(func() { l.OnGuess(l.guessMessage(s)) })
	}
	return true, nil
}

func (l *Listen) mayBeOurs(s socket, v sight) bool {
	l.mu.Lock()
	if l.start.uids == nil {
		l.start.uids = ownUsers()
	}
	l.mu.Unlock()
	now := make(map[int]bool)
	for pid := range v.pids {
		usersOf(pid, now)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for uid := range now {
		l.start.uids[uid] = true
	}
	return l.start.uids[s.uid] && !l.start.old[s.inode]
}

func (l *Listen) guessMessage(s socket) string {
	return fmt.Sprintf("the socket on %s is taken for the child's because it appeared after the start and belongs to uid %d; "+
		"to be sure, tiproxy (uid %d) would need the right to look into the child's processes (CAP_SYS_PTRACE, and /proc without hidepid)",
		l.Dest, s.uid, os.Geteuid())
}
