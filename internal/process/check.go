package process

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// checkTimeout is how long a check may take.
	checkTimeout = 5 * time.Second
	// A check costs a process or more, so it is asked less and less often.
	checkFirst = 50 * time.Millisecond
	checkLast  = time.Second
)

// errCheckSlow ends a check that takes too long.
var errCheckSlow = errors.New("the check takes too long")

// checkGate holds once a check has ended with status 0.
type checkGate struct {
	check Check
	limit time.Duration // for each run
	// run runs the check once, for at most as long as ctx. It returns ctx's
	// cause for a check that has not ended by then.
	run func(ctx context.Context, c Check) (checked, error)
}

// checked is how a check has ended, and what it printed last.
type checked struct {
	how   ending
	lines []string
}

func (g *checkGate) wait(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	var last error
	for pause := checkFirst; ; pause = min(2*pause, checkLast) {
		err := g.attempt(ctx)
		if err == nil {
			return nil
		}
		// A check that ctx cut short says nothing about the child.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", last, context.Cause(ctx))
		}
	}
}

// attempt runs the check once. Its error does not wrap ctx's cause.
func (g *checkGate) attempt(ctx context.Context) error {
	limited, cancel := context.WithTimeoutCause(ctx, g.limit, errCheckSlow)
	defer cancel()
	c, err := g.run(limited, g.check)
	said := ""
	if n := len(c.lines); n > 0 {
		said = fmt.Sprintf(": %q", c.lines[n-1])
	}
	switch {
	case err == nil && c.how.clean():
		return nil
	case err == nil:
		return fmt.Errorf("exec:%s ended with %s%s", g.check.Name, c.how, said)
	case ctx.Err() != nil:
		return fmt.Errorf("exec:%s has not ended yet%s", g.check.Name, said)
	case errors.Is(err, errCheckSlow):
		return fmt.Errorf("exec:%s did not end within %v%s", g.check.Name, g.limit, said)
	}
	return fmt.Errorf("exec:%s: %w", g.check.Name, err)
}

// gatesOf are the gates of a life that take no notifications.
func (l *life) gatesOf(g *Gates, lines []*lineGate, more ...gate) *gates {
	var all []gate
	for _, line := range lines {
		all = append(all, line)
	}
	all = append(all, more...)
	for _, u := range g.URLs {
		all = append(all, waitURL{u})
	}
	for _, c := range g.Commands {
		all = append(all, &checkGate{check: c, limit: checkTimeout, run: l.runCheck})
	}
	return newGates(all)
}

// lineGates makes the gates of some patterns.
func lineGates(g *Gates) []*lineGate {
	var all []*lineGate
	for _, p := range g.Lines {
		all = append(all, newLineGate(p))
	}
	return all
}
