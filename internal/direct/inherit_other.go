//go:build !linux

package direct

import (
	"context"
	"errors"
	"net"
	"runtime"
)

// Inherited does nothing here.
type Inherited struct{ *Path }

// Wake starts the child.
type Wake func(ctx context.Context) (over <-chan struct{}, err error)

// Inherit always fails here.
func Inherit(Config) (*Inherited, error) {
	return nil, errors.New("it needs Linux, not " + runtime.GOOS)
}

// Descriptor is none here.
func (*Inherited) Descriptor() int { return -1 }

// Addr is nowhere here.
func (*Inherited) Addr() net.Addr { return nil }

// Serve serves nobody here.
func (*Inherited) Serve(context.Context, Wake) error { return errors.ErrUnsupported }

// Renew never succeeds here.
func (*Inherited) Renew() error { return errors.ErrUnsupported }

// Refuse never succeeds here.
func (*Inherited) Refuse() error { return errors.ErrUnsupported }

// Admit never succeeds here.
func (*Inherited) Admit() error { return errors.ErrUnsupported }

// TurnAway does nothing here.
func (*Inherited) TurnAway() {}

// AwaitTaken never succeeds here.
func (*Inherited) AwaitTaken(context.Context) error { return errors.ErrUnsupported }

// Taken is never true here.
func (*Inherited) Taken() bool { return false }

// Close does nothing here.
func (*Inherited) Close() {}
