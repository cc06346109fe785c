package process

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"time"

	"tiproxy/internal/probe"
)

// A check is a small life of its own: it is started, followed and ended as a
// child is, with its whole tree. It has no keeper but the child's, which knows
// its mark.

// errStopped ends the checks of a child that is being stopped.
var errStopped = errors.New("the child is being stopped")

// checkMark is the mark of a life's checks. Nothing that bears it is taken for a
// part of the child. An orphan without any mark is the child's, not the check's.
func checkMark(mark string) string {
	if at := strings.LastIndexByte(mark, '@'); at >= 0 {
		return mark[:at] + "+ready" + mark[at:]
	}
	return mark + "+ready"
}

// runCheck runs a check. When it returns because ctx has ended, the end of the
// check may take a little longer: the next one waits for it, and so does the
// end of the life.
func (l *life) runCheck(ctx context.Context, c Check) (checked, error) {
	gone, err := l.reserveCheck(ctx)
	if err != nil {
		return checked{}, err
	}
	run, err := l.startCheck(c)
	if err != nil {
		close(gone)
		return checked{}, err
	}
	over := make(chan struct{})
	defer close(over)
	go l.carryCheck(run, over, gone)
	select {
	case <-run.told:
		return checked{how: run.how, lines: run.tail.last()}, nil
	case <-ctx.Done():
		return checked{lines: run.tail.last()}, context.Cause(ctx)
	}
}

// reserveCheck waits until nothing of the last check is left and returns what
// is to be closed when that is so of the next. There is none any more once the
// child has ended or is being stopped.
func (l *life) reserveCheck(ctx context.Context) (gone chan struct{}, err error) {
	l.mu.Lock()
	last := l.checked
	l.mu.Unlock()
	select { // only who has the gates' turn comes here, so last stays the last
	case <-last:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asking.Err() != nil {
		return nil, context.Cause(l.asking)
	}
	l.checked = make(chan struct{})
	return l.checked, nil
}

// checkNeeds is how many descriptors the start of a check takes at once: /dev/null,
// two output pipes, the pipe and pidfd of the spawn, a file of /proc.
const checkNeeds = 9

// startCheck starts a check with everything that the child was given.
func (l *life) startCheck(c Check) (*life, error) {
	defer spare.ensure(checkNeeds)()
	res := *l.res
	res.prober, res.check = noProber{}, true
	res.cmd.Path, res.cmd.Args, res.cmd.Activated = c.Path, c.Args, false
	res.cmd.Stdout, res.cmd.Stderr, res.cmd.Gates = nil, nil, Gates{}
	res.stop = &stopping{signal: syscall.SIGTERM} // and SIGKILL at once
	run, err := res.spawn(checkMark(l.tree.mark))
	if err != nil {
		return nil, err
	}
	close(run.alone)
	return run, nil
}

// carryCheck ends a check, and what it leaves, when it has ended by itself or
// nobody waits for it any more.
func (l *life) carryCheck(run *life, over <-chan struct{}, gone chan<- struct{}) {
	defer close(gone)
	select {
	case <-run.told:
	case <-over:
	case <-l.asking.Done():
	}
	run.Stop(context.Background()) // its stop timeout is 0
}

// endChecks sees to it that there is no check any more, and reports whether
// that is so in time; limit 0 is as long as it takes.
func (l *life) endChecks(limit time.Duration) bool {
	l.stopAsking(errEnded)
	l.mu.Lock()
	gone := l.checked
	l.mu.Unlock()
	if limit == 0 {
		<-gone
		return true
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-gone:
		return true
	case <-timer.C:
		return false
	}
}

// noProber is the prober of a check, which takes no connections.
type noProber struct{}

func (noProber) Before(context.Context) error { return nil }

func (noProber) Wait(context.Context, probe.Tree) (net.Addr, error) {
	return nil, errors.New("a check takes no connections")
}
