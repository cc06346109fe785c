package budget

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// children is the resource of which every member of a group takes one.
const children = "children"

// purse is one resource of one group.
type purse struct{ group, resource string }

// amounts is how much of what.
type amounts map[purse]int64

// add adds what members take, n times.
func (a amounts) add(n int64, members ...*Member) {
	for _, m := range members {
		for p, v := range m.terms.takes() {
			a[p] += n * v
		}
	}
}

// takes is what a member of these terms takes.
func (t Terms) takes() amounts {
	if t.Group == "" {
		return nil
	}
	a := amounts{{t.Group, children}: 1}
	for resource, v := range t.Uses {
		if v > 0 {
			a[purse{t.Group, resource}] = v
		}
	}
	return a
}

// limit is how much there is in a purse; ok is false if there is no end to it.
func limit(groups map[string]Group, p purse) (most int64, ok bool) {
	g := groups[p.group]
	if p.resource == children {
		return int64(g.Children), g.Children > 0
	}
	most, ok = g.Amounts[p.resource]
	return most, ok
}

// short is what is missing for wanted beside used.
func short(groups map[string]Group, used, wanted amounts) amounts {
	missing := amounts{}
	for p, v := range wanted {
		if most, ok := limit(groups, p); ok && v > 0 && used[p]+v > most {
			missing[p] = used[p] + v - most
		}
	}
	return missing
}

// usedLocked is what is taken, but for what members that fail the test take.
func (l *Ledger) usedLocked(counts func(*Member) bool) amounts {
	used := amounts{}
	for _, m := range l.members {
		if m.holdsLocked() && counts(m) {
			used.add(1, m)
		}
	}
	return used
}

func always(*Member) bool { return true }

// lasting leaves out who is being put to sleep.
func lasting(m *Member) bool { return !m.leaving }

// wantsLocked returns those who need room so that m may start: itself and whom
// it needs, but for those that have it. settled is false while one of them is
// being put to sleep: it needs room anew when it is gone.
func (m *Member) wantsLocked() (wants []*Member, settled bool) {
	settled = true
	for _, x := range append(m.closureLocked(), m) {
		if x.leaving {
			settled = false
		}
		if x.leaving || !x.holdsLocked() {
			wants = append(wants, x)
		}
	}
	return wants, settled
}

// line is the queue as seen by whoever goes through it in order: which groups
// somebody further ahead waits for.
type line map[string]bool

// passes reports whether nobody ahead waits for a group of these members.
func (q line) passes(members []*Member) bool {
	for _, m := range members {
		if q[m.terms.Group] {
			return false
		}
	}
	return true
}

// stand says that somebody waits for room for these members.
func (q line) stand(members []*Member) {
	for _, m := range members {
		if m.terms.Group != "" {
			q[m.terms.Group] = true
		}
	}
}

// waitedLocked returns the whole queue as a line.
func (l *Ledger) waitedLocked() line {
	q := line{}
	for _, p := range l.queue {
		wants, _ := p.of.wantsLocked()
		q.stand(wants)
	}
	return q
}

// grantLocked lets in everybody for whom there is room and who passes nobody.
func (l *Ledger) grantLocked() {
	ahead := line{}
	for _, p := range slices.Clone(l.queue) {
		if err := l.neverLocked(p.of); err != nil {
			l.answerLocked(p, err)
			continue
		}
		wants, settled := p.of.wantsLocked()
		if settled && ahead.passes(wants) && l.fitsLocked(wants) {
			l.answerLocked(p, nil)
		} else {
			ahead.stand(wants)
		}
	}
	l.attendLocked()
}

// attendLocked sees to it that somebody makes room for those who wait.
func (l *Ledger) attendLocked() {
	if len(l.queue) > 0 && !l.attending {
		l.attending = true
		go l.attend()
	}
}

func (l *Ledger) fitsLocked(wants []*Member) bool {
	wanted := amounts{}
	wanted.add(1, wants...)
	return len(short(l.groups, l.usedLocked(always), wanted)) == 0
}

// neverLocked says why there can never be room for m, if that is so.
func (l *Ledger) neverLocked(m *Member) error {
	wanted := amounts{}
	wanted.add(1, append(m.closureLocked(), m)...)
	for p := range short(l.groups, nil, wanted) {
		most, _ := limit(l.groups, p)
		return &NoRoomError{
			Service: m.name, Group: p.group,
			why: fmt.Sprintf("it takes %d of %s with what it needs, and there are %d", wanted[p], p.resource, most),
		}
	}
	return nil
}

// patienceLocked is how long a caller may wait for room for m: as long as the
// strictest group concerned allows; 0 means for ever.
func (l *Ledger) patienceLocked(m *Member) (wait time.Duration) {
	wants, _ := m.wantsLocked()
	for _, x := range wants {
		if w := l.groups[x.terms.Group].Wait; w > 0 && (wait == 0 || w < wait) {
			wait = w
		}
	}
	return wait
}

// NoRoomError is why a caller who has waited for room was not let in.
type NoRoomError struct {
	Service, Group string
	Waited         time.Duration // 0: there can never be room
	why            string
}

// Error returns the reason, as people read it.
func (e *NoRoomError) Error() string {
	if e.Waited == 0 {
		return fmt.Sprintf("there is never room in group %q for service %q: %s", e.Group, e.Service, e.why)
	}
	return fmt.Sprintf("no room in group %q for service %q within %v: %s", e.Group, e.Service, e.Waited, e.why)
}

// noRoomLocked says why there was no room for m for so long.
func (l *Ledger) noRoomLocked(m *Member, waited time.Duration) error {
	groups := m.groupsLocked()
	return &NoRoomError{Service: m.name, Group: strings.Join(groups, ", "), Waited: waited, why: l.holdersLocked(groups)}
}

// whyLocked says why a party waits: for the room of others, or because others are
// ahead. It is empty if there is room as soon as what ends now is gone.
func (l *Ledger) whyLocked(p *party) string {
	ahead := line{}
	for _, q := range l.queue[:slices.Index(l.queue, p)] {
		wants, _ := q.of.wantsLocked()
		ahead.stand(wants)
	}
	wants, _ := p.of.wantsLocked()
	wanted := amounts{}
	wanted.add(1, wants...)
	if ahead.passes(wants) && len(short(l.groups, l.usedLocked(lasting), wanted)) == 0 {
		return ""
	}
	return l.holdersLocked(p.of.groupsLocked())
}

// groupsLocked names the groups in which room is wanted so that m may start.
func (m *Member) groupsLocked() []string {
	wants, _ := m.wantsLocked()
	ahead := line{}
	ahead.stand(wants)
	return slices.Sorted(maps.Keys(ahead))
}

// holdersLocked tells who has the room of groups, for people.
func (l *Ledger) holdersLocked(groups []string) string {
	var names []string
	for _, m := range l.members {
		if m.holdsLocked() && slices.Contains(groups, m.terms.Group) {
			names = append(names, m.name)
		}
	}
	if len(names) == 0 {
		return "others are ahead"
	}
	slices.Sort(names)
	return fmt.Sprintf("the room in %s is taken by %s", strings.Join(groups, ", "), strings.Join(names, ", "))
}
