//go:build !linux

package probe

import (
	"context"
	"fmt"
	"net"
)

// Local reports no error: outside Linux, Listen connects, wherever d is.
func Local(context.Context, Dest) error { return nil }

// Before returns nil: outside Linux nobody is looked for.
func (l *Listen) Before(context.Context) error { return nil }

// Wait is Dial's Wait.
func (l *Listen) Wait(ctx context.Context, tree Tree) (net.Addr, error) {
	return (&Dial{Dest: l.Dest}).Wait(ctx, tree)
}

// Diagnose says what is not the way to take connections on Dest.
func (l *Listen) Diagnose(Tree) string {
	return fmt.Sprintf("nothing takes connections on %s", l.Dest)
}
