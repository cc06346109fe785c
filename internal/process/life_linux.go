package process

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tiproxy/internal/pool"
	"tiproxy/internal/probe"
)

// settleTime bounds how long the end of a child is held back until what it
// wrote last has been carried.
const settleTime = 50 * time.Millisecond

// probeNeeds is how many descriptors the question whether a child is ready takes
// at once: a netlink socket, a directory of /proc, a file of the tree.
const probeNeeds = 4

// life is one run of a child. Its goroutines: monitor, which waits for the
// child's end; guard, which keeps a keeper; two copiers; the notifier's, if
// there is one; carryCheck beside a check; and, once a stop was asked for, halt.
// All end before gone is closed.
type life struct {
	res    *Resource
	tree   *tree
	tail   *tail
	out    [2]*copier
	notify *notifier // nil if the child has nobody to notify
	gates  *gates

	exited chan pool.Exit
	dead   chan struct{} // closed when the child has ended and how is known
	how    ending        // valid once dead is closed
	told   chan struct{} // closed when exited was sent
	gone   chan struct{} // closed when nothing is left
	force  chan struct{} // closed when a stop is to be by force
	ending chan struct{} // closed when guard is to let the keeper go
	opened chan struct{} // gets a value when Ready found the child ready
	alone  chan struct{} // closed when guard has returned

	alive      context.Context // ends with the child, cause errEnded
	end        context.CancelCauseFunc
	asking     context.Context // ends with alive, or before when a stop begins
	stopAsking context.CancelCauseFunc

	mu      sync.Mutex
	checked chan struct{} // of the newest check: closed when nothing of it is left
	phase   phase
	forced  bool
	killed  bool // we sent SIGKILL to the child
	guarded int  // members the keeper was told of
}

// phase says who is responsible for the end of a life, so that it is one.
type phase uint8

const (
	running  phase = iota
	halting        // halt sees to the end
	finished       // monitor does: nothing was left
)

var _ pool.Life = (*life)(nil)

// Pid returns the child's process id.
func (l *life) Pid() int { return l.tree.head.pid }

// Tree is the child's process tree.
func (l *life) Tree() probe.Tree { return l.tree }

// Exited implements pool.Life.
func (l *life) Exited() <-chan pool.Exit { return l.exited }

// Ready asks the prober and the gates, at the longest until the child ends. For
// a child that has ended it returns an *ExitError that tells how.
func (l *life) Ready(ctx context.Context) (net.Addr, error) {
	wait, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	unhook := context.AfterFunc(l.alive, func() { cancel(errEnded) })
	defer unhook()
	defer spare.ensure(probeNeeds)()
	addr, err := l.gates.ready(wait, l.res.prober, l.tree)
	if l.alive.Err() == nil {
		if err == nil {
			poke(l.opened)
			return addr, nil
		}
		return nil, &NotReadyError{Program: l.res.cmd.Path, LastLines: l.tail.last(), Err: err}
	}
	select {
	case <-l.told:
		return nil, l.exitError()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// exitError must not be called before dead is closed.
func (l *life) exitError() *ExitError {
	<-l.dead
	l.mu.Lock()
	killed := l.killed
	l.mu.Unlock()
	return l.how.err(l.res.cmd.Path, l.tail.last(), killed)
}

// monitor waits for the child's end, which it learns from the kernel without
// reaping it, tells it, and ends the life if nothing is left and nobody else
// does.
func (l *life) monitor() {
	l.how = waitEnd(l.Pid())
	close(l.dead)
	l.end(errEnded)
	checked := l.endChecks(settleTime)
	left := l.anyLeft()
	l.settle()
	mine := false
	if !left && checked {
		l.mu.Lock()
		if mine = l.phase == running; mine {
			l.phase = finished
		}
		l.mu.Unlock()
	}
	if mine {
		l.finish()
	}
	e := l.exit(left, left && l.how.clean() && l.stillListens())
	e.Left = left || !checked // a check that does not die is waited for, too
	l.exited <- e
	close(l.told)
	if mine {
		close(l.gone)
	}
}

func (l *life) exit(left, background bool) pool.Exit {
	err := l.exitError()
	e := pool.Exit{StartErr: err, Status: l.how.String(), Left: left}
	if l.how.clean() {
		err.Hint = BackgroundHint(left)
	}
	if background || !l.how.clean() {
		e.Err = err
	}
	return e
}

// stillListens tells whether what the child left behind takes connections: then
// it did not end its work, but put itself into the background.
func (l *life) stillListens() bool {
	ctx, cancel := context.WithTimeout(context.Background(), settleTime/2)
	defer cancel()
	_, err := l.res.prober.Wait(ctx, l.tree)
	return err == nil
}

// waitEnd blocks until the process has ended and leaves it a zombie
// (waitid(2), WNOWAIT). It is a child that only this package reaps.
func waitEnd(pid int) ending {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil {
			return endingOf(&info)
		}
		if err != unix.EINTR {
			return ending{code: -1} // ECHILD: somebody else took the status
		}
	}
}

// Values of si_code for SIGCHLD (sigaction(2)).
const (
	cldExited = 1
	cldDumped = 3
)

// endingOf reads si_status, which x/sys has no name for: after three ints the
// union begins, aligned to a pointer, with si_pid, si_uid, si_status.
func endingOf(info *unix.Siginfo) ending {
	const word = unsafe.Sizeof(uintptr(0))
	const union = (3*4 + word - 1) / word * word
	status := *(*int32)(unsafe.Add(unsafe.Pointer(info), union+8))
	if info.Code == cldExited {
		return ending{code: int(status)}
	}
	return ending{code: -1, signal: unix.Signal(status), core: info.Code == cldDumped}
}

// anyLeft tells whether others of the tree live, once the child itself has
// ended. Nobody is a verdict that must be right, and one look at a process table
// that changes under it can miss somebody, so nobody has to be seen twice.
// Who cannot look must take it that somebody is there.
func (l *life) anyLeft() bool {
	for range 2 {
		found, whole := l.tree.look()
		if len(found) > 0 || !whole || l.res.host.hidden(func(int) {}) > 0 {
			return true
		}
	}
	return false
}

// settle waits until what the child had written has been carried.
func (l *life) settle() {
	limit := time.NewTimer(settleTime)
	defer limit.Stop()
	for _, c := range l.out {
		select {
		case <-c.done:
		case <-c.settle():
		case <-limit.C:
			return
		}
	}
}

// finish takes leave of a tree of which only the child's zombie is left. The
// writers promised not to block; one that does anyway is not waited for long.
func (l *life) finish() {
	defer spare.refill() // with the descriptors of this life
	l.endChecks(0)
	l.res.host.bury(l.Pid())
	l.tree.drop()
	l.notify.end()
	close(l.ending)
	for _, c := range l.out {
		c.end()
	}
	<-l.alone
	limit := time.NewTimer(time.Second)
	defer limit.Stop()
	for _, c := range l.out {
		select {
		case <-c.done:
		case <-limit.C:
			l.res.log.Warn("the child's output is not taken", "service", l.res.cmd.Service)
			return
		}
	}
}

func pidsOf(procs []proc) []int {
	pids := make([]int, 0, len(procs))
	for _, p := range procs {
		pids = append(pids, p.pid)
	}
	return slices.Clip(pids)
}
