//go:build linux

package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// singleShot is a server that takes one client, serves it, and ends.
func singleShot(t *testing.T) *tiproxy {
	t.Helper()
	port := freePort(t)
	return run(t, setup{
		dest: "127.0.0.1:" + port, program: "ncat",
		args: []string{"-l", "127.0.0.1", port, "--exec", "/bin/cat"},
	})
}

func TestSingleShot_EveryClientGetsAChildOfItsOwn(t *testing.T) {
	p := singleShot(t)
	for i := range 5 {
		c := dial(t, host(), p.address())
		word := fmt.Sprint("client ", i)
		if answer := mustAsk(t, c, word); answer != word {
			t.Errorf("client %d heard %q", i, answer)
		}
		c.Close()
		if e := p.expect("closed"); !strings.Contains(e.line, "exit status 0") {
			t.Errorf("child %d: %s", i, e.line)
		}
	}
	if n := p.log.count("starting"); n != 5 {
		t.Errorf("%d children for five clients", n)
	}
	p.asleep()
}

func TestSingleShot_SecondClientWaitsForTheNextChild(t *testing.T) {
	p := singleShot(t)
	first := dial(t, host(), p.address())
	mustAsk(t, first, "first")
	second := dial(t, host(), p.address())
	answer := make(chan string, 1)
	go func() {
		line, err := ask(second, "second")
		answer <- fmt.Sprint(line, err)
	}()
	// The second one is held: the first goes on as if alone.
	for range 10 {
		mustAsk(t, first, "again")
	}
	select {
	case early := <-answer:
		t.Fatalf("the second client was answered while the only child was busy: %s", early)
	default:
	}
	first.Close()
	if got := <-answer; got != "second<nil>" {
		t.Errorf("the second client got %q", got)
	}
	second.Close()
	p.expect("closed")
	p.expect("closed")
	if n := p.log.count("starting"); n != 2 {
		t.Errorf("%d children for two clients", n)
	}
}

// The client has said all it has to say, and half-closed, before the server
// even exists.
func TestColdStart_HalfClosedClientIsAnswered(t *testing.T) {
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{dest: dest, program: self, args: []string{"role", "tally", dest}})
	for range 3 {
		out := mustClient(t, "HELLO\n", "nc", "-N", "127.0.0.1", p.port())
		if !strings.HasPrefix(out, "6 ") {
			t.Errorf("the server counted %q, want 6 bytes", out)
		}
	}
	if n := p.log.count("starting"); n != 1 {
		t.Errorf("%d children, want one for all", n)
	}
}

// Clients that speak at once, and come together, land in the backlog of a
// listener that is about to close. None of them may lose its words there.
func TestSingleShot_ManyAtOnceLoseNothing(t *testing.T) {
	p := singleShot(t)
	answers := make(chan string, 4)
	for i := range cap(answers) {
		go askOnce(dial(t, host(), p.address()), fmt.Sprint("client ", i), answers)
	}
	for range cap(answers) {
		if bad := <-answers; bad != "" {
			t.Error(bad)
		}
	}
	p.asleep()
}

// askOnce sends word and tells what was wrong with the answer.
func askOnce(c net.Conn, word string, result chan<- string) {
	defer c.Close()
	if got, err := ask(c, word); got != word || err != nil {
		result <- fmt.Sprintf("%s heard %q, %v", word, got, err)
		return
	}
	result <- ""
}
