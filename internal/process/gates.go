package process

import (
	"context"
	"net"
	"regexp"
	"sync/atomic"

	"tiproxy/internal/probe"
)

// Gates are what must hold before a life is ready, beside what the Prober says.
// Lines and notifications are waited for from the spawn on; the URLs and
// commands are asked one after another once the Prober has said yes. What has
// held once holds for the life.
type Gates struct {
	Lines    []*regexp.Regexp // each matches a line of the child's output, see lineTap
	Notify   bool             // the tree says READY=1, see sd_notify(3); Linux only
	URLs     []*probe.HTTP    // each gives a good answer
	Commands []Check          // each ends with status 0
}

// Check is a command that tells by its exit status whether the child is ready.
// It runs with the child's environment, in its directory.
type Check struct {
	Name string   // for messages
	Path string   // the program, absolute
	Args []string // the whole argument vector
}

// gate is one thing that must hold once.
type gate interface {
	// wait returns nil when it holds. When ctx ends first, the error wraps its
	// cause and says what is missing.
	wait(ctx context.Context) error
}

// waitURL is a URL's gate.
type waitURL struct{ *probe.HTTP }

func (w waitURL) wait(ctx context.Context) error { return w.Wait(ctx) }

// gates are those of one life.
type gates struct {
	open atomic.Bool   // all have held
	turn chan struct{} // held by who asks: nothing is asked twice at a time
	left []gate        // those not yet known to hold; for who has the turn
}

func newGates(all []gate) *gates {
	g := &gates{turn: make(chan struct{}, 1), left: all}
	g.open.Store(len(all) == 0)
	return g
}

// ready asks the prober and, until they have held, the gates.
func (g *gates) ready(ctx context.Context, p Prober, tree probe.Tree) (net.Addr, error) {
	addr, err := p.Wait(ctx, tree)
	if err != nil || g.open.Load() {
		return addr, err
	}
	if err := g.pass(ctx); err != nil {
		return nil, err
	}
	// That may have taken long: some programs listen for a while to prepare
	// themselves, and then anew.
	return p.Wait(ctx, tree)
}

// pass waits until all gates have held.
func (g *gates) pass(ctx context.Context) error {
	select {
	case g.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-g.turn }()
	for len(g.left) > 0 {
		if err := g.left[0].wait(ctx); err != nil {
			return err
		}
		g.left = g.left[1:]
	}
	g.open.Store(true)
	return nil
}
