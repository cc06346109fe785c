package budget

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// GroupState is a copy of what is known of a group at one moment, for display
// only.
type GroupState struct {
	Name string
	Group
	UsedChildren int
	Used         map[string]int64 // of each of the group's amounts
	Members      []MemberState    // by name
	Queue        []Waiting        // in the order in which they are served
}

// MemberState is one service of a group.
type MemberState struct {
	Name    string
	Uses    map[string]int64
	Holds   bool     // its room, so that others cannot have it
	Coming  int      // callers that were let in and wait for it, or for what it needs
	Leaving bool     // it is being put to sleep to make room
	For     []string // services because of which it holds its room, beside itself
}

// Waiting are the clients that wait for room for one service.
type Waiting struct {
	Service string
	Client  string // the first of them
	Clients int
	Since   time.Time
	Wants   []string // services that need room so that this one may start
}

// Snapshot returns the state of every group, by name.
func (l *Ledger) Snapshot() []GroupState {
	l.mu.Lock()
	defer l.mu.Unlock()
	used := l.usedLocked(always)
	all := make([]GroupState, 0, len(l.groups))
	for _, name := range slices.Sorted(maps.Keys(l.groups)) {
		g := GroupState{Name: name, Group: l.groups[name], Used: make(map[string]int64)}
		g.Amounts = maps.Clone(g.Amounts)
		g.UsedChildren = int(used[purse{name, children}])
		for r := range g.Amounts {
			g.Used[r] = used[purse{name, r}]
		}
		for _, m := range l.members {
			if m.terms.Group == name {
				g.Members = append(g.Members, l.memberStateLocked(m))
			}
		}
		slices.SortFunc(g.Members, func(a, b MemberState) int { return cmp.Compare(a.Name, b.Name) })
		g.Queue = l.waitingLocked(name)
		all = append(all, g)
	}
	return all
}

func (l *Ledger) memberStateLocked(m *Member) MemberState {
	s := MemberState{Name: m.name, Uses: maps.Clone(m.terms.Uses), Holds: m.holdsLocked(), Coming: m.gets, Leaving: m.leaving}
	for _, d := range l.dependentsLocked(m) {
		s.For = append(s.For, d.name)
	}
	slices.Sort(s.For)
	return s
}

// waitingLocked returns those who wait for room in a group.
func (l *Ledger) waitingLocked(group string) (all []Waiting) {
	for _, p := range l.queue {
		wants, _ := p.of.wantsLocked()
		w := Waiting{Service: p.of.name, Client: p.who, Clients: p.callers, Since: p.since}
		here := false
		for _, m := range wants {
			w.Wants = append(w.Wants, m.name)
			here = here || m.terms.Group == group
		}
		if here {
			all = append(all, w)
		}
	}
	return all
}
