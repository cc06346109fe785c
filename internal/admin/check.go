package admin

import (
	"context"
	"errors"
	"fmt"
)

// UnhealthyError is the answer of a tiproxy that is not well.
type UnhealthyError struct {
	Status int    // of HTTP
	Answer string // what it says about that
}

func (e *UnhealthyError) Error() string {
	return fmt.Sprintf("it answers %d: %s", e.Status, e.Answer)
}

// Check asks whether tiproxy is well, within ctx. The error says what is wrong:
// an *UnhealthyError if it answered.
func Check(ctx context.Context, at Target) error {
	c := NewClient(at)
	defer c.Close()
	err := c.Get(ctx, "/healthz", nil)
	var p *Problem
	if errors.As(err, &p) {
		return &UnhealthyError{Status: p.Status, Answer: p.Error()}
	}
	return err
}
