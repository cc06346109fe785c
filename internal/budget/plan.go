package budget

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Group is a budget that several services share.
type Group struct {
	Children int              // services awake at once; 0 means any number
	Amounts  map[string]int64 // how much there is of what
	Wait     time.Duration    // how long a client may wait for room; 0 means for ever
}

// Terms are what one service has to do with others. It takes one of its group's
// children whatever it uses.
type Terms struct {
	Group string           // whose budget it shares; "" means nobody's
	Uses  map[string]int64 // of the group's amounts, while it is awake
	Needs []string         // services that are ready before it starts, in this order, and kept as long
	Wake  []string         // services woken along
}

// Plan says what the groups have and what each service takes.
type Plan struct {
	Groups map[string]Group
	Terms  map[string]Terms // of every service
}

// Check returns all that is wrong with a plan, each in an error of its own (see
// errors.Join): names of nobody, services that need one another in a circle, and
// services for which there can never be room.
func (p Plan) Check() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(p.Terms)) {
		errs = append(errs, p.check(name)...)
	}
	if len(errs) == 0 {
		errs = p.checkRoom()
	}
	return errors.Join(errs...)
}

func (p Plan) check(name string) (errs []error) {
	t := p.Terms[name]
	report := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("service %q "+format, append([]any{name}, args...)...))
	}
	g, known := p.Groups[t.Group]
	if t.Group != "" && !known {
		report("is in group %q, which there is not", t.Group)
	}
	for _, r := range slices.Sorted(maps.Keys(t.Uses)) {
		if _, has := g.Amounts[r]; known && !has {
			report("uses %s, of which group %q says nothing", r, t.Group)
		}
		if t.Uses[r] < 0 {
			report("uses %d of %s", t.Uses[r], r)
		}
	}
	for _, n := range t.Needs {
		if _, known := p.Terms[n]; !known {
			report("needs %q, which there is not", n)
		}
	}
	for _, n := range t.Wake {
		if _, known := p.Terms[n]; !known {
			report("wakes %q, which there is not", n)
		}
	}
	if way := p.way(name, name, nil); way != nil {
		report("needs itself: %s", strings.Join(append([]string{name}, way...), " needs "))
	}
	return errs
}

// way returns how from needs to, at last, or nil if it does not.
func (p Plan) way(from, to string, past []string) []string {
	for _, n := range p.Terms[from].Needs {
		if n == to {
			return append(slices.Clone(past), n)
		}
		if slices.Contains(past, n) {
			continue
		}
		if way := p.way(n, to, append(slices.Clone(past), n)); way != nil {
			return way
		}
	}
	return nil
}

// checkRoom finds the services for which there can never be room.
func (p Plan) checkRoom() (errs []error) {
	l := New(nil)
	for name := range p.Terms {
		l.Join(name, nil)
	}
	l.applyLocked(p) // nobody else knows of it
	for _, name := range slices.Sorted(maps.Keys(p.Terms)) {
		if err := l.neverLocked(l.byName[name]); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// Configure makes a plan the one that holds, at once. Members that it does not
// mention leave: what they hold, they hold on the old terms until it is given
// back. Nobody is stopped because there is less than before: it is only that
// nobody is let in until there is room again. A member that has a life
// keeps the needs awake that are still its needs; new ones are started with its
// next life, but their room is taken at once. Pools that are to behave otherwise
// from now on are to be configured before. The error is that of Check, or says that a service of the
// plan has not joined; then nothing has changed.
func (l *Ledger) Configure(p Plan) error {
	if err := p.Check(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range p.Terms {
		if l.byName[name] == nil {
			return fmt.Errorf("service %q has not joined", name)
		}
	}
	l.applyLocked(p)
	l.tellPlannedLocked()
	l.changedLocked()
	return nil
}

func (l *Ledger) applyLocked(p Plan) {
	l.groups = maps.Clone(p.Groups)
	for name, m := range l.byName {
		if _, stays := p.Terms[name]; !stays {
			l.removeLocked(m)
		}
	}
	for name, m := range l.byName {
		m.terms = p.Terms[name]
		m.needs, m.wake = l.namedLocked(m.terms.Needs), l.namedLocked(m.terms.Wake)
		m.dismissLocked()
	}
	for _, m := range l.members {
		if m.active && !m.removed {
			m.unpinLocked()
			m.pinLocked()
		}
	}
}

// namedLocked returns the members of these names.
func (l *Ledger) namedLocked(names []string) []*Member {
	all := make([]*Member, len(names))
	for i, n := range names {
		all[i] = l.byName[n]
	}
	return all
}
