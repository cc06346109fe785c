package probe

import (
	"errors"
	"testing"
	"time"
)

// headedTree counts how often it is asked for more than its head.
type headedTree struct {
	countingTree
	head int
}

func (h *headedTree) Head() int { return h.head }

// Looking for all processes of a tree takes longer than looking into one of them.
// Mostly the one that was started listens.
func TestHeadIsLookedIntoFirst(t *testing.T) {
	l := &Listen{Dest: tcpDest("127.0.0.1", freePort(t))}
	mustBefore(t, l)
	c := startChild(t, "serve")
	c.listen("tcp4", l.Dest.String())
	tree := &headedTree{head: c.pid()}
	mustWait(t, l, tree)
	if tree.asked != 0 {
		t.Errorf("the tree was asked %d times although its head listens", tree.asked)
	}
	other := startChild(t, "serve")
	tree.head = other.pid()
	var stranger *StrangerError
	if err := mustNotWait(t, l, tree); !errors.As(err, &stranger) || tree.asked == 0 {
		t.Errorf("Wait = %v after %d questions, want a stranger after some", err, tree.asked)
	}
}

// A look that was held up says nothing about what the next one costs; looks that
// are dear stay dear.
func TestCostIsEvened(t *testing.T) {
	cost := time.Duration(0)
	for i, tt := range []struct{ look, want time.Duration }{{10, 10}, {900, 20}, {10, 10}, {900, 20}, {900, 40}, {900, 80}} {
		if cost = evened(tt.look, cost); cost != tt.want {
			t.Errorf("look %d: %d, want %d", i, cost, tt.want)
		}
	}
}
