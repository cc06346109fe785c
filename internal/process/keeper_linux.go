package process

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keeperPause is the least time between two keepers of one life.
const keeperPause = time.Second

// openedGrace is how long a child has been ready when it is looked among all
// processes who belongs to its tree: that takes time that the first clients need.
// Whom the kernel's lists of children show, the keeper is told of at once.
const openedGrace = 20 * time.Millisecond

// keeperMissed is the pause between two attempts to start a keeper from which on
// a shortage is worth a line.
const keeperMissed = 8 * shortPauseMin

// keeperNeeds is how many descriptors a keeper's start takes at once: its pipe,
// /dev/null, the spawn's own pipe and pidfd.
const keeperNeeds = 6

// keeperExe is this program, also after its file was replaced or removed.
const keeperExe = "/proc/self/exe"

// keeper is the process that watches over a child in case we die.
type keeper struct {
	pid  int
	proc *spawned
	pipe int            // we hold the only write end: it closes when we die, however
	sent map[ident]bool // members it was told of
}

// guard sees to it that a keeper lives as long as the life. It returns when
// ending is closed and the keeper is gone.
func (l *life) guard() {
	defer close(l.alone)
	warned := false
	warn := func(msg string, err error) {
		if !warned {
			warned = true
			l.res.log.Warn(msg, "service", l.res.cmd.Service, "pid", l.Pid(), "err", err)
		}
	}
	short := shortPauseMin
	for first := true; ; first = false {
		pause := time.NewTimer(keeperPause)
		if first {
			pause.Reset(0) // one that is killed early is replaced at once
		}
		k, err := l.startKeeper()
		if err != nil && isShortage(err) {
			pause.Reset(short) // it comes back by itself
			short = min(2*short, shortPauseMax)
		}
		switch {
		case isShortage(err) && short < keeperMissed: // perhaps somebody else was quicker
		case err != nil:
			warn("no keeper for the child: if tiproxy is killed, parts of its tree may survive", err)
		case !l.watch(k):
			warn("the keeper of the child ended, another one is started", nil)
		}
		select {
		case <-pause.C:
		case <-l.ending:
			pause.Stop()
			return
		}
	}
}

// watch waits until the life ends, then dismisses the keeper and returns true,
// or until the keeper ends before that.
func (l *life) watch(k *keeper) bool {
	defer unix.Close(k.pipe)
	look := time.NewTimer(time.Hour)
	defer look.Stop()
	for going := true; going; {
		select {
		case <-k.proc.gone:
			return false
		case <-l.opened:
			l.tree.note()
			look.Reset(openedGrace) // those who have waited go first
		case <-look.C:
			l.tree.members()
		case <-l.tree.news:
			k.tell(l.tree.unsent(k.sent))
			l.toldKeeper(k)
		case <-l.ending:
			going = false
		}
	}
	// Killed rather than told: nothing in it has to run for it to go.
	l.res.host.do(func() {
		select {
		case <-k.proc.gone:
		default:
			_ = unix.Kill(k.pid, unix.SIGKILL)
		}
	})
	select {
	case <-k.proc.gone:
	case <-l.res.host.done: // too early, but then nobody reaps
	}
	return true
}

// tell passes on who is in the tree, because the ties of those who left it by
// all the keeper could see end with us: our orphans become somebody else's. A
// keeper that does not read (it is stopped, say) is not waited for.
func (k *keeper) tell(ids []ident) {
	const lineMax = 64 // so that no write is beyond PIPE_BUF and cut in two
	for part := range slices.Chunk(ids, 4096/lineMax) {
		var b []byte
		for _, id := range part {
			b = fmt.Appendf(b, "%d %d\n", id.pid, id.start)
		}
		if _, err := unix.Write(k.pipe, b); err != nil {
			return
		}
		for _, id := range part {
			k.sent[id] = true
		}
	}
}

func (l *life) toldKeeper(k *keeper) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.guarded = len(k.sent)
}

// startKeeper: its stdin is the pipe, its stderr ours, its session its own, so
// that no signal to a terminal's or our group ends it.
func (l *life) startKeeper() (*keeper, error) {
	defer spare.ensure(keeperNeeds)()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(fds[0])
	null, err := unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(fds[1])
		return nil, &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	defer unix.Close(null)
	attr := &syscall.ProcAttr{
		Dir:   "/",
		Env:   keeperEnv(),
		Files: []uintptr{uintptr(fds[0]), uintptr(null), 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	_ = unix.SetNonblock(fds[1], true)
	pid, s, err := l.res.host.spawn(keeperExe, l.keeperArgs(), attr, true)
	if err != nil {
		unix.Close(fds[1])
		return nil, &os.PathError{Op: "start", Path: keeperExe, Err: err}
	}
	poke(l.tree.news) // all members are news to a new keeper
	return &keeper{pid: pid, proc: s, pipe: fds[1], sent: map[ident]bool{}}, nil
}

func (l *life) keeperArgs() []string {
	head := l.tree.head
	return []string{keeperName, strconv.Itoa(head.pid), strconv.FormatUint(head.start, 10), l.tree.mark, l.res.cmd.Path}
}

// keeperEnv makes the runtime small and, if we are somebody's child ourselves,
// keeps the keeper in that tree.
func keeperEnv() []string {
	env := []string{"GOMAXPROCS=1"}
	if mark, ok := os.LookupEnv(MarkVariable); ok {
		env = append(env, MarkVariable+"="+mark)
	}
	return env
}
