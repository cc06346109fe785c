//go:build !linux

package direct

import (
	"errors"
	"runtime"
	"time"
)

// Path does nothing here.
type Path struct{}

// Open always fails here.
func Open(Config) (*Path, error) {
	return nil, errors.New("it needs Linux, not " + runtime.GOOS)
}

// Begin does nothing here.
func (*Path) Begin(uint64, Finder) {}

// End does nothing here.
func (*Path) End(uint64) {}

// Follows knows of no life here.
func (*Path) Follows(uint64) bool { return false }

// Again does nothing here.
func (*Path) Again() {}

// Retire knows of nobody here.
func (*Path) Retire(uint64) bool { return true }

// Return does nothing here.
func (*Path) Return(uint64) {}

// SetIdle does nothing here.
func (*Path) SetIdle(time.Duration) {}

// Drain does nothing here.
func (*Path) Drain() {}

// Stats has nothing to tell here.
func (*Path) Stats() Stats { return Stats{} }

// Close does nothing here.
func (*Path) Close() {}
