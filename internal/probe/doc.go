// Package probe answers one question about a destination: does the child take
// connections there? HTTP goes deeper, and asks a URL whether it is well.
//
// What is always true: Listen never connects. It reads the kernel's tables of
// listening sockets and compares the owner with the child's process tree, so a
// server that accepts once keeps its one accept, and nobody who merely took the
// port is mistaken for the child. Dial and HTTP do connect, Dial to close at
// once and HTTP for one request, and never to themselves. Nothing is cached from
// one call to the next but what Before saw, names included. No call leaves a
// goroutine or a descriptor behind, and each ends soon after its context.
//
// The package starts and stops nothing, and logs nothing.
package probe

// Tree is a child's process tree.
type Tree interface {
	// Pids returns the process ids of every process of the tree now, in no
	// particular order. It may be called often while somebody else listens on
	// the destination, so it should take no more than a few milliseconds.
	Pids() []int
}

// headed is a Tree that knows who of it most likely listens: the process that was
// started. Looking into that one alone spares looking for the others.
type headed interface {
	Head() int
}
