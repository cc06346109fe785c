//go:build linux

package e2e

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// However the child tries to get away, "closed" comes when nothing of it is
// left, and the port is free.
func TestStop_WholeTreeIsGone(t *testing.T) {
	t.Parallel()
	needRoot(t, "children of other users")
	for _, way := range getaways {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			dest := "127.0.0.1:" + freePort(t)
			command := way.command(dest)
			p := run(t, setup{
				dest: dest, program: command[0], args: command[1:], flags: []string{"--idle", "20ms", "--stop-timeout", "100ms"},
			})
			for range 2 {
				c := dial(t, host(), p.address())
				mustAsk(t, c, "hello")
				seen := p.tree()
				c.Close()
				p.expect("closed")
				for _, q := range seen {
					if now, ok := readProcess(q.pid); ok && now.started == q.started {
						t.Errorf("closed, and there is %v", now)
					}
				}
				l, err := net.Listen("tcp", dest)
				if err != nil {
					t.Fatalf("closed, and the port is not free: %v", err)
				}
				l.Close()
			}
		})
	}
}

func TestStop_IgnoredSignalIsFollowedByKill(t *testing.T) {
	t.Parallel()
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "stubborn", dest},
		flags: []string{"--idle", "20ms", "--stop-timeout", "300ms", "--stop-signal", "INT"},
	})
	c := dial(t, host(), p.address())
	mustAsk(t, c, "hello")
	c.Close()
	p.says("child ignores interrupt")
	if e := p.expect("closed"); !strings.Contains(e.line, "signal: killed") {
		t.Errorf("%s", e.line)
	}
}

// Clients that come while the child takes its time to end are served by the
// next one, and there are never two.
func TestStop_ClientWaitsForTheNextChild(t *testing.T) {
	t.Parallel()
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "lingers", dest, "700ms"}, flags: []string{"--idle", "20ms"},
	})
	c := dial(t, host(), p.address())
	mustAsk(t, c, "hello")
	old := p.onlyChild()
	c.Close()
	p.expect("shutdown")
	p.says("child lingers")
	answers := make(chan string, 10)
	for i := range cap(answers) {
		go func(c net.Conn) {
			answer, err := ask(c, "hello")
			answers <- fmt.Sprint(answer, " ", err)
			if i > 0 { // the first one keeps the child
				c.Close()
			}
		}(dial(t, host(), p.address()))
	}
	first := <-answers
	if now, ok := readProcess(old.pid); ok && now.started == old.started {
		t.Errorf("answered while the last child was there: %v", now)
	}
	if strings.HasPrefix(first, fmt.Sprint(old.pid, " ")) || !strings.HasSuffix(first, " hello <nil>") {
		t.Errorf("a client got %q", first)
	}
	for range cap(answers) - 1 {
		if got := <-answers; got != first {
			t.Errorf("a client got %q, another one %q", got, first)
		}
	}
	order := ""
	for _, e := range p.log.all() {
		switch e.msg {
		case "starting", "opened", "shutdown", "closed":
			order += e.msg + " "
		}
	}
	if !strings.HasPrefix(order, "starting opened shutdown closed starting opened ") {
		t.Errorf("in this order: %s", order)
	}
}

// Without CAP_KILL, a child of another user cannot be ended. It keeps its
// place: no second one is started beside it, and those who wait do wait.
func TestStop_ChildThatCannotBeKilled(t *testing.T) {
	t.Parallel()
	needRoot(t, "a child of another user")
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		dest: dest, program: "setpriv", args: append(append([]string{}, asNobody...), self, "role", "stubborn", dest),
		flags:   []string{"--idle", "20ms", "--stop-timeout", "50ms"},
		wrapper: []string{"setpriv", "--bounding-set=-kill", "--"},
		allow:   []string{"a process of the child cannot be signalled: stopping another user's processes needs CAP_KILL", "closed"},
	})
	c := dial(t, host(), p.address())
	mustAsk(t, c, "hello")
	first := p.onlyChild()
	c.Close()
	p.expect("shutdown")
	p.expect("a process of the child cannot be signalled: stopping another user's processes needs CAP_KILL")
	waiting := dial(t, host(), p.address())
	p.holdsWaiting(1)
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		if s := p.statistics(); s.text("state") != "shutdown" || s.text("starts") != "1" {
			t.Fatalf("not waiting for the end of the first child: %s", s.line)
		}
	}
	if err := syscall.Kill(first.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.expect("closed")
	mustAsk(t, waiting, "hello")
	second := p.onlyChild()
	if second.pid == first.pid {
		t.Error("the first child answers after its end")
	}
	// tiproxy could not end this one either.
	if err := syscall.Kill(second.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.expect("closed")
	p.asleep()
}
