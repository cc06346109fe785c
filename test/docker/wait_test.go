//go:build linux

package dockere2e

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// eventually waits for something that only asking can tell.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	if err := poll(bound, check); err != nil {
		t.Fatalf("not within %v: %s: %v", bound, what, err)
	}
}

func timeout() <-chan time.Time { return time.After(bound) }

// lines collects what a command prints while it runs, from both its streams.
type lines struct {
	mu   sync.Mutex
	data strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.data.Write(p)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.data.String()
}

// has says whether a whole line was printed.
func (l *lines) has(line string) bool {
	return strings.Contains("\n"+l.text(), "\n"+line+"\n")
}
