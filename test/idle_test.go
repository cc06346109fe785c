//go:build linux

package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// A connection counts as long as it is open, however silent it is.
func TestIdle_SilentConnectionCounts(t *testing.T) {
	t.Parallel()
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{dest: dest, program: self, args: []string{"role", "echo", dest}, flags: []string{"--idle", "20ms"}})
	c := dial(t, host(), p.address())
	before := mustAsk(t, c, "hello")
	<-time.After(50 * 20 * time.Millisecond)
	if after := mustAsk(t, c, "hello"); after != before {
		t.Errorf("%q before the silence, %q after it", before, after)
	}
	c.Close()
	p.expect("closed")
	if n := p.log.count("starting"); n != 1 {
		t.Errorf("%d starts", n)
	}
}

// tiproxy stands still for longer than the idle time, as in a suspended machine
// or a paused container. Who came meanwhile is served, and so is who was there.
func TestIdle_TiproxyThatStoodStill(t *testing.T) {
	t.Parallel()
	const idle = 200 * time.Millisecond
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{dest: dest, program: self, args: []string{"role", "echo", dest}, flags: []string{"--idle", idle.String()}})
	for i := range rounds(6, 100) {
		c := dial(t, host(), p.address())
		mustAsk(t, c, "hello")
		if stays := i%2 == 0; !stays {
			c.Close()
			if i%4 == 1 {
				p.holdsConnections(0) // the idle time runs
			}
		}
		p.signal(syscall.SIGSTOP)
		came := dial(t, host(), p.address())
		if _, err := fmt.Fprintln(came, "hello"); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * idle)
		p.signal(syscall.SIGCONT)
		if answer, err := readLine(came); err != nil {
			t.Errorf("who came meanwhile got %q, %v", answer, err)
		}
		if i%2 == 0 {
			mustAsk(t, c, "still there")
		}
		c.Close()
		came.Close()
	}
	p.expect("closed")
	p.asleep()
}
