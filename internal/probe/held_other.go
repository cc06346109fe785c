//go:build !linux

package probe

import (
	"context"
	"errors"
)

// Held is for Linux only.
func (l *Listen) Held(context.Context, Tree) ([]Held, error) { return nil, errors.ErrUnsupported }
