//go:build linux

package e2e

import (
	"fmt"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"
)

// outlive is how long after tiproxy's sudden death something of its tree may
// still be seen: a second or two, and what a busy machine adds.
const outlive = 2*time.Second + 2*time.Second

// asNobody makes setpriv(1) run the words behind it as another user.
var asNobody = []string{"--reuid=65534", "--regid=65534", "--clear-groups", "--"}

// getaways are children that are hard to end.
var getaways = []struct {
	name    string
	command func(dest string) []string
}{
	{"plain", func(dest string) []string { return []string{self, "role", "echo", dest} }},
	{"ignores signals", func(dest string) []string { return []string{self, "role", "stubborn", dest} }},
	{"wrapper script", func(dest string) []string {
		return []string{"sh", "-c", `"$@"; true`, "sh", self, "role", "echo", dest}
	}},
	{"setsid", func(dest string) []string {
		return []string{"sh", "-c", `setsid "$@" & wait`, "sh", self, "role", "stubborn", dest}
	}},
	{"orphan of its own session", func(dest string) []string {
		return []string{"sh", "-c", `(setsid "$@" &) ; sleep 1000`, "sh", self, "role", "stubborn", dest}
	}},
	{"other user", func(dest string) []string {
		return append(append([]string{"setpriv"}, asNobody...), self, "role", "stubborn", dest)
	}},
	{"other user behind a wrapper", func(dest string) []string {
		return append(append([]string{"sh", "-c", `setsid setpriv "$@" & wait`, "sh"}, asNobody...), self, "role", "stubborn", dest)
	}},
}

// However tiproxy dies, nothing of what it started stays, whatever the child
// did to get away, and the next tiproxy finds the port free.
func TestSuddenDeath_NothingOutlivesTiproxy(t *testing.T) {
	for _, way := range getaways {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			needRoot(t, "children of other users")
			dest := "127.0.0.1:" + freePort(t)
			command := way.command(dest)
			s := setup{dest: dest, program: command[0], args: command[1:], flags: []string{"--stop-timeout", "100ms"}}
			p := run(t, s)
			c := dial(t, host(), p.address())
			mustAsk(t, c, "hello")
			if len(p.tree()) == 0 {
				t.Fatal("no child")
			}
			p.kill()
			began := time.Now()
			p.gone()
			t.Logf("gone %v after the kill", time.Since(began).Round(time.Millisecond))

			next := run(t, s)
			mustAsk(t, dial(t, host(), next.address()), "hello")
		})
	}
}

// A crash of tiproxy, as by a panic, prints where it was and leaves nothing.
func TestSuddenDeath_CrashTakesTheTreeAlong(t *testing.T) {
	t.Parallel()
	needRoot(t, "children of other users")
	for _, way := range getaways[:rounds(3, len(getaways))] {
		dest := "127.0.0.1:" + freePort(t)
		command := way.command(dest)
		p := run(t, setup{dest: dest, program: command[0], args: command[1:], status: 2}) // Go's for a crash
		c := dial(t, host(), p.address())
		mustAsk(t, c, "hello")
		p.look()
		p.signal(syscall.SIGABRT)
		p.ends(prompt)
		p.gone()
		if _, err := readLine(c); err == nil {
			t.Error("the client still has a connection")
		}
		p.says("goroutine ")
	}
}

func TestSuddenDeath_WhileStarting(t *testing.T) {
	p := run(t, setup{dest: "127.0.0.1:" + freePort(t), program: self, args: []string{"role", "never"}})
	c := dial(t, host(), p.address())
	p.expect("starting")
	p.kill()
	p.gone()
	if _, err := readLine(c); err == nil {
		t.Error("the waiting client still has a connection")
	}
}

// A child that gets away, because the keeper was killed too, is named by the
// next tiproxy, which does not send it anybody.
func TestSuddenDeath_WhatEscapedIsNamed(t *testing.T) {
	needRoot(t, "a child of another user")
	dest := "127.0.0.1:" + freePort(t)
	s := setup{
		dest: dest, program: "setpriv", allow: []string{"start failed"},
		args: []string{"--reuid=65534", "--regid=65534", "--clear-groups", "--", self, "role", "echo", dest},
	}
	p := run(t, s)
	mustAsk(t, dial(t, host(), p.address()), "hello")
	child := p.running("e2e-child")
	if len(child) != 1 {
		t.Fatalf("tree: %v", p.tree())
	}
	// None of the two may see the other's end.
	p.signal(syscall.SIGSTOP)
	for _, d := range descendants(p.pid()) {
		if p.runsTiproxy(d.pid) {
			_ = syscall.Kill(d.pid, syscall.SIGKILL)
		}
	}
	p.kill()
	t.Cleanup(func() { _ = syscall.Kill(child[0].pid, syscall.SIGKILL) })

	next := run(t, s)
	named := func() bool {
		return slices.ContainsFunc(next.log.all(), func(e event) bool {
			return e.msg == escapedMessage && e.text("pid") == fmt.Sprint(child[0].pid)
		})
	}
	if !named() {
		t.Errorf("the log does not name process %d before %q", child[0].pid, "listening")
	}
	if answer, err := askAfresh(t, host(), next.address(), "password=secret"); !wasReset(err) {
		t.Errorf("the client got %q, %v from the one that escaped; want a reset", answer, err)
	}
}

// gone waits until nothing lives of what was seen below tiproxy, and its dest
// can be taken again.
func (p *tiproxy) gone() {
	p.t.Helper()
	err := poll(outlive, func() error {
		unknownChildren() // reap
		for _, q := range allProcesses() {
			if q.state != 'Z' && (q.hasEnv(p.mark) || p.seen[process{pid: q.pid, started: q.started}]) {
				return fmt.Errorf("%v lives", q)
			}
		}
		l, err := net.Listen("tcp", p.setup.dest)
		if err != nil {
			return err
		}
		return l.Close()
	})
	if err != nil {
		p.t.Errorf("%v after tiproxy was killed: %v", outlive, err)
	}
}
