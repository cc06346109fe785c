package proxy

import "testing"

// What was shown never becomes less, also while a connection is between those
// that go on and those that have ended.
func TestCarried_NeverFalls(t *testing.T) {
	s := New(nil, Config{})
	s.counts.ended(endClosed, 10, 20)
	if up, down := s.Carried(); up != 10 || down != 20 {
		t.Errorf("carried %d up, %d down", up, down)
	}
	s.shown.up = 15 // some of it by a connection that is not seen now
	if up, down := s.Carried(); up != 15 || down != 20 {
		t.Errorf("carried %d up, %d down", up, down)
	}
}
