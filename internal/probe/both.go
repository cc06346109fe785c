package probe

import (
	"context"
	"net"
)

// Both recognises readiness by Listen and, once that says yes, by Dial as well:
// the child's own socket is there, and takes a connection.
type Both struct {
	Listen *Listen
	Dial   *Dial
}

// Before is Listen's Before.
func (b *Both) Before(ctx context.Context) error { return b.Listen.Before(ctx) }

// Wait waits for both, and returns the address that took Dial's connection.
func (b *Both) Wait(ctx context.Context, tree Tree) (net.Addr, error) {
	if _, err := b.Listen.Wait(ctx, tree); err != nil {
		return nil, err
	}
	return b.Dial.Wait(ctx, tree)
}
