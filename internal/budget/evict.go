package budget

import (
	"cmp"
	"slices"
	"time"

	"tiproxy/internal/pool"
)

// askPause is how long a member that could not be put to sleep, although nobody
// seemed to use it, is not asked again.
const askPause = 100 * time.Millisecond

// attend makes room for those who wait. It runs as long as somebody does.
func (l *Ledger) attend() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next, waiting := l.makeRoom()
		if !waiting {
			return
		}
		var due <-chan time.Time
		if !next.IsZero() {
			timer.Reset(time.Until(next))
			due = timer.C
		}
		select {
		case <-l.bell:
		case <-due:
		}
	}
}

// makeRoom puts those to sleep whose room is needed, as far as that can be done
// now. next is when more can be done without anything else happening; zero
// means never. waiting is false when nobody waits any more.
func (l *Ledger) makeRoom() (next time.Time, waiting bool) {
	uses := l.look()
	l.mu.Lock()
	l.grantLocked()
	if len(l.queue) == 0 {
		l.attending = false
		l.mu.Unlock()
		return time.Time{}, false
	}
	stops, next := l.planLocked(uses, time.Now())
	for _, s := range stops {
		s.who.leaving = true
	}
	l.mu.Unlock()
	for i, s := range stops {
		if _, ok := s.who.pool.TryStop(pool.ReasonRoom); !ok {
			l.stay(stops[i:])
			break // the others are perhaps not enough
		}
		l.log.Info("room needed", "service", s.who.name, "for", s.whom.name)
	}
	return next, true
}

// look asks every pool who uses it.
func (l *Ledger) look() map[*Member]pool.Use {
	l.mu.Lock()
	members := slices.Clone(l.members)
	l.mu.Unlock()
	uses := make(map[*Member]pool.Use, len(members))
	for _, m := range members {
		uses[m] = m.pool.Use()
	}
	return uses
}

// stay takes note that the first of stops could not be put to sleep, and the
// others are not to be.
func (l *Ledger) stay(stops []stop) {
	l.mu.Lock()
	defer l.mu.Unlock()
	stops[0].who.again = time.Now().Add(askPause)
	for _, s := range stops {
		s.who.leaving = false
	}
	l.changedLocked()
}

// stop is one member that is to make room for another.
type stop struct{ who, whom *Member }

// planLocked decides who is to be asked to sleep now. next is when a member
// that nobody uses may be asked who may not yet.
func (l *Ledger) planLocked(uses map[*Member]pool.Use, now time.Time) (stops []stop, next time.Time) {
	l.takeEndingLocked()
	ahead, used, going := line{}, l.usedLocked(lasting), map[*Member]bool{}
	for _, p := range l.queue {
		wants, _ := p.of.wantsLocked()
		first := ahead.passes(wants)
		ahead.stand(wants)
		if !first {
			continue
		}
		wanted := amounts{}
		wanted.add(1, wants...)
		c := choice{ledger: l, uses: uses, now: now, going: going, spared: append(p.of.closureLocked(), p.of), missing: short(l.groups, used, wanted)}
		for _, m := range c.make() {
			going[m] = true
			used.add(-1, m)
			if m.pins == 0 && uses[m].Kept == 0 { // else those who need it go first
				stops = append(stops, stop{m, p.of})
			}
		}
		if !c.next.IsZero() && (next.IsZero() || c.next.Before(next)) {
			next = c.next
		}
	}
	return stops, next
}

// takeEndingLocked gives those who wait the room of members that are being
// stopped for another reason, unless somebody waits there already: who comes for
// them now is behind.
func (l *Ledger) takeEndingLocked() {
	waited := l.waitedLocked()
	for _, m := range l.members {
		if m.ending && m.gets == 0 && m.pins == 0 && waited[m.terms.Group] {
			m.leaving = true
		}
	}
}

// choice is the choice of those who make room for one party.
type choice struct {
	ledger  *Ledger
	uses    map[*Member]pool.Use
	now     time.Time
	going   map[*Member]bool // they go for other parties
	spared  []*Member        // the party needs them itself
	missing amounts          // what is short as long as nobody else goes
	next    time.Time        // when somebody more can be chosen

	chosen []*Member
}

// candidate is a member that may be put to sleep, with all who need it.
type candidate struct {
	*Member
	unused time.Time // since when nobody has used it, nor anybody who needs it
}

// make returns those who have to go so that nothing is missing: nobody if that
// cannot be reached. Whoever needs one of them goes as well.
func (c *choice) make() []*Member {
	if len(c.missing) == 0 {
		return nil
	}
	var all []candidate
	for _, m := range c.ledger.members {
		if unused, ok := c.mayGo(m); ok {
			all = append(all, candidate{m, unused})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		return cmp.Or(a.unused.Compare(b.unused), cmp.Compare(a.name, b.name))
	})
	for _, m := range all {
		if c.isEnough() {
			break
		}
		if c.helps(m.Member) {
			c.choose(m.Member)
		}
	}
	if !c.isEnough() {
		return nil
	}
	for _, m := range slices.Backward(all) {
		c.spare(m.Member)
	}
	return c.chosen
}

// mayGo reports whether a member may be put to sleep once all who need it are
// gone, and since when it has been unused.
func (c *choice) mayGo(m *Member) (unused time.Time, ok bool) {
	u := c.uses[m]
	if m.leaving || c.going[m] || slices.Contains(c.spared, m) || !m.isUnusedLocked(u) && !m.isMissedLocked() {
		return time.Time{}, false
	}
	unused = u.Vacant // zero if it is missed: those who need it say when
	for _, d := range c.ledger.dependentsLocked(m) {
		if d.leaving || c.going[d] {
			continue
		}
		since, ok := c.mayGo(d)
		if !ok {
			return time.Time{}, false
		}
		if since.After(unused) {
			unused = since
		}
	}
	ripe := u.Mature
	if m.again.After(ripe) {
		ripe = m.again
	}
	if ripe.After(c.now) {
		if c.next.IsZero() || ripe.Before(c.next) {
			c.next = ripe
		}
		return time.Time{}, false
	}
	return unused, true
}

// isUnusedLocked reports whether nobody uses a life of m, but for escorts.
func (m *Member) isUnusedLocked(u pool.Use) bool {
	return m.active && m.gets == 0 && m.livesLocked() && u.Gen == m.newest && !u.Vacant.IsZero() && u.Kept <= m.kept
}

// isMissedLocked reports whether m has no life, although its room is kept for
// those who need it, and nobody but their escorts wants it: it does not start.
func (m *Member) isMissedLocked() bool {
	return m.pins > 0 && m.gets <= m.calling && !m.livesLocked()
}

// dependentsLocked returns the active members that need m, directly or not.
func (l *Ledger) dependentsLocked(m *Member) (all []*Member) {
	for _, d := range l.members {
		if d.active && slices.Contains(d.pinned, m) {
			all = append(all, d)
		}
	}
	return all
}

func (c *choice) isEnough() bool {
	for _, v := range c.missing {
		if v > 0 {
			return false
		}
	}
	return true
}

// helps reports whether a member takes something of which too little is there.
func (c *choice) helps(m *Member) bool {
	for p := range m.terms.takes() {
		if c.missing[p] > 0 {
			return true
		}
	}
	return false
}

// choose adds a member and those who need it.
func (c *choice) choose(m *Member) {
	for _, x := range append(c.ledger.dependentsLocked(m), m) {
		if !x.leaving && !c.going[x] && !slices.Contains(c.chosen, x) {
			c.chosen = append(c.chosen, x)
			c.count(x, -1)
		}
	}
}

// spare takes out a member that it goes without.
func (c *choice) spare(m *Member) {
	i := slices.Index(c.chosen, m)
	if i < 0 || slices.ContainsFunc(m.pinned, func(n *Member) bool { return slices.Contains(c.chosen, n) }) {
		return
	}
	c.count(m, 1)
	if !c.isEnough() {
		c.count(m, -1)
		return
	}
	c.chosen = slices.Delete(c.chosen, i, i+1)
}

// count counts in what is missing that a member goes, or stays.
func (c *choice) count(m *Member, n int64) {
	for p, v := range m.terms.takes() {
		if _, counts := c.missing[p]; counts {
			c.missing[p] += n * v
		}
	}
}
