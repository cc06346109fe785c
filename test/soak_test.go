//go:build linux

package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const soakIdle = 20 * time.Millisecond

// TestSoak starts and stops a child again and again, with clients that arrive
// around the moment when the idle time is over and while the child is being
// stopped. Each of them must be served, by a child that is not dying, and in
// the end tiproxy must hold no more than at the start. E2E_CYCLES sets how often.
func TestSoak_NoClientIsLostAtABadMoment(t *testing.T) {
	copyOnly(t, "it has a soak of its own, at its own pace")
	t.Parallel()
	cycles := 300
	if n := os.Getenv("E2E_CYCLES"); n != "" {
		var err error
		if cycles, err = strconv.Atoi(n); err != nil {
			t.Fatal(err)
		}
	}
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "dying", dest},
		flags: []string{"--idle", soakIdle.String()},
	})
	// One child and one connection first, so that all that is made once is there.
	if err := visit(p.address(), 0); err != nil {
		t.Fatal(err)
	}
	eventuallyAsleep(p)
	before := readResources(t, p.pid())

	clients, began := 0, time.Now()
	for p.log.count("starting") < cycles {
		clients += soakRound(t, p.address(), soakPace{soakIdle, 20 * time.Millisecond, 4 * time.Millisecond})
		if t.Failed() {
			return
		}
	}
	eventuallyAsleep(p)
	after := readResources(t, p.pid())
	t.Logf("%d clients, %d starts in %v; before: %+v after: %+v", clients, p.log.count("starting"), time.Since(began).Round(time.Second), before, after)
	if after.descriptors > before.descriptors {
		t.Errorf("%d descriptors, %d before: some were not closed", after.descriptors, before.descriptors)
	}
	if more := after.threads - before.threads; more > 20 {
		t.Errorf("%d threads more than before", more)
	}
	p.countGoroutines()
}

// soakPace says when the clients of a round come: around the end of the idle
// time, within spread of each other, and how long one stays after each word at most.
type soakPace struct{ idle, spread, stay time.Duration }

// soakRound sends up to four clients, each at a moment of its own around the
// end of the idle time, and returns how many.
func soakRound(t *testing.T, address string, pace soakPace) int {
	t.Helper()
	n := 1 + rand.IntN(4)
	results := make(chan error, n)
	for range n {
		delay := pace.idle - 4*time.Millisecond + rand.N(pace.spread)
		go func() { results <- visitFor(address, delay, pace.stay) }()
	}
	for range n {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	return n
}

// visit is one client: it comes after delay, says something, stays a little,
// says something more, and wants to be let go as it ends the connection.
func visit(address string, delay time.Duration) error {
	return visitFor(address, delay, 4*time.Millisecond)
}

func visitFor(address string, delay, stay time.Duration) error {
	<-time.After(delay)
	c, err := net.DialTimeout("tcp", address, bound)
	if err != nil {
		return fmt.Errorf("a client was refused: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(bound)); err != nil {
		return err
	}
	for range 2 {
		word := strconv.FormatUint(rand.Uint64(), 36)
		answer, err := ask(c, word)
		if err != nil {
			return fmt.Errorf("a client was not served: %w", err)
		}
		if answer != word {
			return fmt.Errorf("a client said %q and heard %q", word, answer)
		}
		<-time.After(rand.N(stay))
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		return fmt.Errorf("a client that had said all was not let go in peace: %q, %w", rest, err)
	}
	return nil
}

type resources struct {
	descriptors, threads, rssKiB int
}

func readResources(t *testing.T, pid int) resources {
	t.Helper()
	r := resources{descriptors: process{pid: pid}.descriptors()}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		_, _ = fmt.Sscanf(line, "Threads: %d", &r.threads)
		_, _ = fmt.Sscanf(line, "VmRSS: %d", &r.rssKiB)
	}
	return r
}

// countGoroutines ends tiproxy with SIGQUIT, on which Go's runtime prints every
// goroutine. With nothing running there are only those of the program itself.
func (p *tiproxy) countGoroutines() {
	p.t.Helper()
	const most = 30
	p.setup.status = 2
	p.signal(syscall.SIGQUIT)
	p.ends(prompt)
	p.log.untilEnd(prompt)
	if n := strings.Count(p.log.text(), "\ngoroutine "); n == 0 || n > most {
		p.t.Errorf("%d goroutines while asleep, want some and at most %d", n, most)
	}
}
