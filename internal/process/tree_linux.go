package process

import (
	"slices"
	"sync"
)

// tree tells who belongs to one child. A member is the child itself; whoever
// descends from a member; whoever is in the child's process group or session;
// whoever was a member once; and those orphans that came to us (we are the
// reaper of all our descendants) and are ours to stop, see adopts.
//
// No single sign would do: double-forked and setsid processes leave the group
// and lose their parents, programs that rewrite their title overwrite the
// environment where the mark is, and the environment of another user's process
// cannot be read without CAP_SYS_PTRACE.
type tree struct {
	host *Host
	head ident // the child
	mark string
	// modest trees adopt nobody without their mark: beside a check lives the
	// child, whose orphans must not be taken for the check's and killed with it.
	modest bool

	// news gets a value when members were seen for the first time.
	news chan struct{}

	mu    sync.Mutex
	known map[ident]bool // every member ever seen
	uids  map[int]bool   // their users, only kept where adopts needs them
}

func newTree(h *Host, head ident, mark string) *tree {
	t := &tree{host: h, head: head, mark: mark, news: make(chan struct{}, 1),
		known: map[ident]bool{}, uids: map[int]bool{}}
	h.mu.Lock()
	h.trees[t] = true
	h.mu.Unlock()
	return t
}

// drop forgets the tree, which is gone.
func (t *tree) drop() {
	t.host.mu.Lock()
	delete(t.host.trees, t)
	t.host.mu.Unlock()
}

// look is members, and whether the whole process table could be read: without
// a descriptor it cannot, and nobody may conclude that somebody is gone.
func (t *tree) look() (found []proc, whole bool) {
	blind := spare.misses.Load()
	found = t.members()
	return found, blind == spare.misses.Load()
}

// members returns the living members, parents before children. It reads the
// whole process table.
func (t *tree) members() []proc {
	var procs []proc
	own, quiet := t.host.steady(func() { procs = allProcs() })
	delete(own, t.head.pid)
	isRoot := func(p proc) bool {
		if p.pid == t.head.pid || p.pgrp == t.head.pid || p.session == t.head.pid || t.knows(p.ident) {
			return true
		}
		return quiet && p.ppid == t.host.self.pid && p.alive() && t.adopts(p)
	}
	skip := func(p proc) bool {
		return own[p.pid] || p.pid == t.host.self.pid || p.start < t.head.start
	}
	found := family(procs, isRoot, skip)
	t.remember(found)
	return found
}

// family returns the living processes among procs that are roots or descend
// from one, parents before children, never passing through a skipped one. The
// dead are passed through: a process may die while the table is being read.
func family(procs []proc, isRoot, skip func(proc) bool) []proc {
	kids := make(map[int][]proc, len(procs))
	var found []proc
	for _, p := range procs {
		if skip(p) {
			continue
		}
		if isRoot(p) {
			found = append(found, p)
			continue
		}
		kids[p.ppid] = append(kids[p.ppid], p)
	}
	for i := 0; i < len(found); i++ {
		found = append(found, kids[found[i].pid]...)
		delete(kids, found[i].pid)
	}
	return slices.DeleteFunc(parentsFirst(found), func(p proc) bool { return !p.alive() })
}

// parentsFirst orders roots that descend from one another.
func parentsFirst(procs []proc) []proc {
	at := make(map[int]proc, len(procs))
	for _, p := range procs {
		at[p.pid] = p
	}
	depth := func(p proc) (n int) {
		for n < len(procs) {
			parent, ok := at[p.ppid]
			if !ok {
				break
			}
			p, n = parent, n+1
		}
		return n
	}
	slices.SortStableFunc(procs, func(a, b proc) int { return depth(a) - depth(b) })
	return procs
}

// adopts decides about an orphan that came to us. A mark of ours decides by
// itself. Without one: only a process of our tree can have come to a program
// that is not PID 1, unless another child's tree knows it or somebody in this
// program started it (it is in our process group then). To PID 1 everybody's
// orphans come; there a readable stranger stays a stranger, and one we may not
// look into is a member if the tree has, or had, its user.
func (t *tree) adopts(p proc) bool {
	mark, readable := readMark(p.pid)
	if mark == t.mark {
		return true
	}
	_, giver, marked := parseMark(mark)
	if t.modest || marked && giver == t.host.self.ident {
		return false
	}
	if t.host.ownGroup(p) || t.host.claimed(p, t) {
		return false
	}
	if !t.host.isInit() {
		return true
	}
	if marked {
		return t.knows(giver)
	}
	return !readable && t.hasUserOf(p.pid)
}

// claimed tells whether this process belongs to another living tree.
func (h *Host) claimed(p proc, asks *tree) bool {
	h.mu.Lock()
	others := make([]*tree, 0, len(h.trees))
	for t := range h.trees {
		if t != asks {
			others = append(others, t)
		}
	}
	h.mu.Unlock()
	return slices.ContainsFunc(others, func(t *tree) bool {
		return p.pgrp == t.head.pid || p.session == t.head.pid || t.knows(p.ident)
	})
}

func (t *tree) knows(id ident) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known[id]
}

func (t *tree) hasUserOf(pid int) bool {
	uid, ok := readUID(pid)
	head, headOK := readUID(t.head.pid) // its zombie still has one
	t.mu.Lock()
	defer t.mu.Unlock()
	return ok && (t.uids[uid] || headOK && head == uid)
}

func (t *tree) remember(procs []proc) {
	fresh := false
	t.mu.Lock()
	for _, p := range procs {
		fresh = fresh || !t.known[p.ident]
		t.known[p.ident] = true
	}
	t.mu.Unlock()
	if fresh {
		poke(t.news)
	}
	if t.host.isInit() {
		t.rememberUsers(procs)
	}
}

// rememberUsers is done at every look: a child may change its user at any time.
func (t *tree) rememberUsers(procs []proc) {
	for _, p := range procs {
		if uid, ok := readUID(p.pid); ok {
			t.mu.Lock()
			t.uids[uid] = true
			t.mu.Unlock()
		}
	}
}

// poke leaves a value in a channel of capacity 1.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// has tells whether a process is a member, by the way up from it. exists is false
// when there is no such process any more, or none that we can see.
func (t *tree) has(pid int) (member, exists bool) {
	if pid == t.head.pid {
		return true, true // unreaped, so the number is its own
	}
	const steps = 100 // bounds a walk through a table that changes
	for at, n := pid, 0; n < steps; n++ {
		p, ok := readProc(at)
		switch {
		case !ok && at == pid:
			return false, false
		case !ok:
			at = pid // the parent has just ended: whose child is it now?
			continue
		case at == t.head.pid, p.pgrp == t.head.pid, p.session == t.head.pid, t.knows(p.ident):
			return true, true
		case p.start < t.head.start, t.host.owns(at):
			return false, true
		case p.ppid == t.host.self.pid:
			return t.adopts(p), true
		}
		at = p.ppid
	}
	return false, true
}

// unsent returns the known members that are not in sent.
func (t *tree) unsent(sent map[ident]bool) []ident {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ids []ident
	for id := range t.known {
		if !sent[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// Head is the process id of the child itself, which is unreaped as long as the
// tree is looked at.
func (t *tree) Head() int { return t.head.pid }

// Pids lists the tree's processes for a probe: cheaply, by the kernel's lists of
// children, which may miss somebody for a moment. The probe asks again.
func (t *tree) Pids() []int {
	for range 3 {
		blind := spare.misses.Load()
		if pids := t.pids(); blind == spare.misses.Load() {
			return pids
		}
	}
	return t.pids()
}

func (t *tree) pids() []int {
	if !listsChildren() {
		pids := []int{t.head.pid} // also where there is no /proc to show it
		for _, p := range t.members() {
			if p.pid != t.head.pid {
				pids = append(pids, p.pid)
			}
		}
		return pids
	}
	pids := append([]int{t.head.pid}, t.orphans()...)
	seen := map[int]bool{t.host.self.pid: true}
	pids = slices.DeleteFunc(pids, func(pid int) bool { return seenBefore(seen, pid) })
	for i := 0; i < len(pids); i++ {
		for _, kid := range childrenOf(pids[i]) {
			if !seenBefore(seen, kid) {
				pids = append(pids, kid)
			}
		}
	}
	return pids
}

// note remembers those whom the kernel's lists of children show. It is quick, as
// members, which looks at every process, is not.
func (t *tree) note() {
	var found []proc
	for _, pid := range t.Pids() {
		if p, ok := readProc(pid); ok && p.alive() {
			found = append(found, p)
		}
	}
	t.remember(found)
}

func seenBefore(seen map[int]bool, pid int) bool {
	if seen[pid] {
		return true
	}
	seen[pid] = true
	return false
}

// orphans returns the members among the processes that lost their parents.
func (t *tree) orphans() []int {
	var kids []int
	own, quiet := t.host.steady(func() { kids = childrenOf(t.host.self.pid) })
	if !quiet {
		return nil
	}
	var found []proc
	for _, pid := range kids {
		if own[pid] {
			continue
		}
		p, ok := readProc(pid)
		if !ok || !p.alive() || p.start < t.head.start {
			continue
		}
		if p.pgrp == t.head.pid || p.session == t.head.pid || t.knows(p.ident) || t.adopts(p) {
			found = append(found, p)
		}
	}
	t.remember(found)
	pids := make([]int, len(found))
	for i, p := range found {
		pids[i] = p.pid
	}
	return pids
}
