package probe

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Held returns the tree's listening sockets that serve Dest at this moment,
// with all those that share their addresses: the one that the kernel would
// choose for each address of Dest first. It returns none while somebody
// else listens there, alone or among them. Dest is of TCP.
func (l *Listen) Held(ctx context.Context, tree Tree) ([]Held, error) {
	s, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	defer s.tables.close()
	serving, err := s.find()
	if err != nil {
		return nil, err
	}
	var first, others []socket
	for _, f := range serving {
		group := s.group(f)
		if theirs, err := l.notOurs(group, tree); theirs != nil || err != nil {
			return nil, err
		}
		first, others = append(first, group[0]), append(others, group[1:]...)
	}
	return holders(append(first, others...), tree)
}

// holders finds a descriptor of the tree for each socket, which is named once.
func holders(sockets []socket, tree Tree) ([]Held, error) {
	want := make(map[uint64]bool, len(sockets))
	for _, s := range sockets {
		want[s.inode] = true
	}
	found := make(map[uint64]Held, len(want))
	hidden := false
	for _, pid := range tree.Pids() {
		if len(found) == len(want) {
			break
		}
		err := eachDescriptor(pid, func(name string, inode uint64) bool {
			if fd, err := strconv.Atoi(name); err == nil && want[inode] {
				found[inode] = Held{PID: pid, FD: fd, Inode: inode}
			}
			return true
		})
		if isShortage(err) {
			return nil, err // others, that cannot be looked into or are gone, are missed below
		}
		hidden = hidden || hides(pid, err)
	}
	var all []Held
	for _, s := range sockets {
		h, ok := found[s.inode]
		switch {
		case !ok && hidden:
			return nil, ErrNotProven
		case !ok:
			return nil, fmt.Errorf("the child has given up a listening socket meanwhile: %w", unix.ESRCH)
		}
		h.Addr = s.addr
		if !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	return all, nil
}
