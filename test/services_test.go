//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// configFile writes a configuration into a directory of its own.
func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(sharedDir(t), "tiproxy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// runFile runs the services of a file.
func runFile(t *testing.T, text string) *tiproxy {
	t.Helper()
	return run(t, setup{line: []string{binary, "run", "--config", configFile(t, text)}})
}

// bindOf is where a service takes its clients.
func (p *tiproxy) bindOf(service string) string {
	p.t.Helper()
	var at string
	eventually(p.t, service+" listens", func() error {
		for _, e := range p.log.all() {
			if e.msg == "listening" && e.text("service") == service {
				at = e.text("bind")
				return nil
			}
		}
		return fmt.Errorf("no such line")
	})
	return at
}

// lives is how often a service was started.
func (p *tiproxy) lives(service string) (n int) {
	for _, e := range p.log.all() {
		if e.msg == "starting" && e.text("service") == service {
			n++
		}
	}
	return n
}

// Several services in one program: each wakes, sleeps and fails on its own.
func TestServices_LiveTheirOwnLives(t *testing.T) {
	t.Parallel()
	p := runFile(t, fmt.Sprintf(`
defaults: {idle: 300ms}
services:
  one: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: %[1]s, args: [role, echo, "127.0.0.1:{port}"]}
  two: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: %[1]s, args: [role, stubborn, "127.0.0.1:{port}"], idle: 0, stop-timeout: 200ms}
`, self))
	one, two := dial(t, host(), p.bindOf("one")), dial(t, host(), p.bindOf("two"))
	first, second := mustAsk(t, one, "hello"), mustAsk(t, two, "hello")
	if first == second {
		t.Errorf("both are served by %s", first)
	}
	one.Close()
	for _, msg := range []string{"shutdown", "closed"} {
		if e := p.expect(msg); e.text("service") != "one" {
			t.Errorf("another service: %s", e.line)
		}
	}
	if again := mustAsk(t, two, "hello"); again != second {
		t.Errorf("served by %s, and by %s before", again, second)
	}
	mustAsk(t, dial(t, host(), p.bindOf("one")), "hello again")
	if a, b := p.lives("one"), p.lives("two"); a != 2 || b != 1 {
		t.Errorf("%d and %d starts, want 2 and 1", a, b)
	}
	// What a child prints says whose it is.
	two.Close()
	p.signal(syscall.SIGTERM)
	p.ends(bound)
	p.says("two | child ignores terminated")
}

// Orphans of all services become tiproxy's children. The stop of one service
// never reaches a process of another.
func TestServices_OrphansAreToldApart(t *testing.T) {
	t.Parallel()
	p := runFile(t, fmt.Sprintf(`
services:
  stays: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: sh, args: [-c, '(setsid %[1]s role echo 127.0.0.1:{port} &); exec sleep 1000'], idle: 0}
  goes: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: sh, args: [-c, '(setsid %[1]s role echo 127.0.0.1:{port} &); exec sleep 1000'], idle: 100ms}
`, self))
	stays := dial(t, host(), p.bindOf("stays"))
	pid := strings.Fields(mustAsk(t, stays, "hello"))[0]
	for life := range 3 {
		goes := dial(t, host(), p.bindOf("goes"))
		other := strings.Fields(mustAsk(t, goes, "hello"))[0]
		goes.Close()
		if e := p.expect("closed"); e.text("service") != "goes" {
			t.Fatalf("life %d: %s", life+1, e.line)
		}
		if _, err := os.Stat("/proc/" + other); err == nil {
			t.Errorf("life %d: process %s is left", life+1, other)
		}
		if still := strings.Fields(mustAsk(t, stays, "hello"))[0]; still != pid {
			t.Errorf("the other service is process %s now, not %s", still, pid)
		}
	}
}

// One address that cannot be had is told before anything was started, with the
// service's name.
func TestServices_NoneWithoutTheOthers(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := configFile(t, fmt.Sprintf(`
services:
  free: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: %[1]s, args: [role, echo, "127.0.0.1:{port}"]}
  stuck: {bind: "%[2]s", dest: "127.0.0.1:{port}", exec: %[1]s, args: [role, echo, "127.0.0.1:{port}"]}
`, self, taken.Addr()))
	p := launch(t, setup{line: []string{binary, "run", "--config", file}, status: 1})
	p.ends(prompt)
	p.says("service stuck: cannot listen on " + taken.Addr().String())
	if slices.ContainsFunc(p.log.all(), func(e event) bool { return e.msg == "listening" }) {
		t.Error("the other service listens")
	}
}

// check says what run would say.
func TestServices_CheckAndRunAgree(t *testing.T) {
	t.Parallel()
	file := configFile(t, "services:\n  db:\n    dest: 127.0.0.1:3000\n    exec: no-such-program\n    idel: 5m\n    idle: 5\n")
	for _, verb := range []string{"check", "run"} {
		p := launch(t, setup{line: []string{binary, verb, "--config", file}, status: 2})
		p.ends(prompt)
		p.says(file + `:5:5: "services.db.idel" is no setting: did you mean idle?`)
	}
	right := configFile(t, "services: {db: {bind: '127.0.0.1:0', dest: '127.0.0.1:{port}', exec: sh}}")
	p := launch(t, setup{line: []string{binary, "check", "--config", right}})
	p.ends(prompt)
	p.shows(right + " is right: 1 service")
}
