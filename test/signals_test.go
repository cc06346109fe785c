//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asked are the signals that ask tiproxy to end.
var asked = []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP}

// prompt bounds what has nothing to wait for.
const prompt = 10 * time.Second

func TestSignal_Closed(t *testing.T) {
	for _, sig := range asked {
		t.Run(sig.String(), func(t *testing.T) {
			dest := "127.0.0.1:" + freePort(t)
			p := run(t, setup{
				dest: dest, program: self, args: []string{"role", "echo", dest},
				flags: []string{"--drain-timeout", "10m", "--stop-timeout", "10m"},
			})
			p.signal(sig)
			p.ends(prompt)
			if p.log.count("starting") != 0 {
				t.Error("something was started")
			}
		})
	}
}

func TestSignal_Starting(t *testing.T) {
	for _, sig := range asked {
		t.Run(sig.String(), func(t *testing.T) {
			p := run(t, setup{
				dest: "127.0.0.1:" + freePort(t), program: self, args: []string{"role", "never"},
				flags: []string{"--drain-timeout", "10m", "--stop-timeout", "10m", "--start-timeout", "10m"},
			})
			waiting := []net.Conn{dial(t, host(), p.address()), dial(t, host(), p.address())}
			p.says("child never listens")
			p.signal(sig)
			for _, c := range waiting {
				if answer, err := ask(c, "hello"); !wasReset(err) {
					t.Errorf("a waiting client got %q, %v; want a reset", answer, err)
				}
			}
			p.ends(prompt)
			p.says("child got terminated")
		})
	}
}

func openedWithClient(t *testing.T, role string, flags ...string) (*tiproxy, net.Conn) {
	t.Helper()
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{dest: dest, program: self, args: []string{"role", role, dest}, flags: flags})
	c := dial(t, host(), p.address())
	mustAsk(t, c, "hello")
	p.expect("opened")
	return p, c
}

func TestSignal_OpenedWaitsForClients(t *testing.T) {
	for _, sig := range asked {
		t.Run(sig.String(), func(t *testing.T) {
			p, c := openedWithClient(t, "echo", "--drain-timeout", "10m", "--stop-timeout", "10m")
			p.signal(sig)
			p.refuses()
			for range 3 {
				mustAsk(t, c, "still here")
			}
			c.Close()
			p.ends(prompt) // long before the drain timeout
		})
	}
}

func TestSignal_OpenedStopsTheChildWhenTheDrainIsOver(t *testing.T) {
	p, c := openedWithClient(t, "echo", "--drain-timeout", "300ms", "--stop-timeout", "10m")
	p.signal(syscall.SIGTERM)
	if rest, err := io.ReadAll(c); len(rest) != 0 || err != nil && !wasReset(err) {
		t.Errorf("the client got %q, %v; want the end of the connection only", rest, err)
	}
	p.ends(prompt)
}

func TestSignal_SecondOneEndsItNow(t *testing.T) {
	for _, second := range asked {
		t.Run(second.String(), func(t *testing.T) {
			p, c := openedWithClient(t, "stubborn", "--drain-timeout", "10m", "--stop-timeout", "10m")
			p.signal(syscall.SIGTERM)
			p.refuses()
			p.signal(second)
			p.ends(prompt)
			if _, err := io.ReadAll(c); !wasReset(err) {
				t.Errorf("the client got %v, want a reset", err)
			}
		})
	}
}

// The child is being stopped and takes its time; a client waits for the next one.
func TestSignal_Shutdown(t *testing.T) {
	p, c := openedWithClient(t, "stubborn", "--idle", "50ms", "--drain-timeout", "10m", "--stop-timeout", "1s")
	c.Close()
	p.expect("shutdown")
	waiting := dial(t, host(), p.address())
	p.signal(syscall.SIGTERM)
	if answer, err := ask(waiting, "hello"); !wasReset(err) {
		t.Errorf("a waiting client got %q, %v; want a reset", answer, err)
	}
	p.ends(prompt)
	if n := p.log.count("starting"); n != 1 {
		t.Errorf("%d starts, want no new one", n)
	}
}

func TestSignal_ShutdownHurriedByASecondOne(t *testing.T) {
	p, c := openedWithClient(t, "stubborn", "--idle", "50ms", "--stop-timeout", "10m")
	c.Close()
	p.expect("shutdown")
	p.signal(syscall.SIGTERM)
	p.refuses()
	p.signal(syscall.SIGTERM)
	p.ends(prompt)
}

// Bytes that the child sent before it ended reach a client that reads late.
func TestSignal_DrainCutsNoTail(t *testing.T) {
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{dest: dest, program: self, args: []string{"role", "tally", dest}, flags: []string{"--drain-timeout", "10m"}})
	c := dial(t, host(), p.address())
	if _, err := io.WriteString(c, strings.Repeat("x", 1<<20)); err != nil {
		t.Fatal(err)
	}
	p.expect("opened")
	// Who is still being connected when tiproxy stops is told like one who waits.
	eventually(t, "the child has the connection", func() error {
		if n := sockets(p.onlyChild()); n < 2 {
			return fmt.Errorf("%d sockets, one of which listens", n)
		}
		return nil
	})
	p.signal(syscall.SIGTERM)
	p.refuses()
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := readLine(c); !strings.HasPrefix(answer, "1048576 ") || err != nil {
		t.Errorf("got %q, %v; want the count of all bytes", answer, err)
	}
	c.Close()
	p.ends(prompt)
}

// sockets counts those that a process holds.
func sockets(p process) (n int) {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.pid))
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

func TestSignal_HangupStaysIgnoredUnderNohup(t *testing.T) {
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "echo", dest},
		wrapper: []string{"sh", "-c", `trap "" HUP; exec "$@"`, "sh"},
	})
	p.signal(syscall.SIGHUP)
	c := dial(t, host(), p.address())
	mustAsk(t, c, "one")
	p.signal(syscall.SIGHUP)
	mustAsk(t, c, "two")
	child := p.running("e2e-child")
	if len(child) != 1 {
		t.Fatalf("tree: %v", p.tree())
	}
	if !ignores(t, child[0].pid, syscall.SIGHUP) && !catches(t, child[0].pid, syscall.SIGHUP) {
		t.Error("the child should find SIGHUP as tiproxy found it")
	}
	c.Close()
}

// ignores and catches read the masks of proc_pid_status(5).
func ignores(t *testing.T, pid int, sig syscall.Signal) bool { return inMask(t, pid, "SigIgn:", sig) }
func catches(t *testing.T, pid int, sig syscall.Signal) bool { return inMask(t, pid, "SigCgt:", sig) }

func inMask(t *testing.T, pid int, field string, sig syscall.Signal) bool {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, field); ok {
			var mask uint64
			if _, err := fmt.Sscanf(hex, "%x", &mask); err != nil {
				t.Fatal(err)
			}
			return mask&(1<<(sig-1)) != 0
		}
	}
	t.Fatal(errors.New("no " + field + " in the status"))
	return false
}

// As a plain user, tiproxy has no power over others and needs none.
func TestSignal_AsAPlainUser(t *testing.T) {
	needRoot(t, "becoming somebody else")
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "echo", dest}, dir: "/",
		flags:   []string{"--idle", "200ms", "--drain-timeout", "10m"},
		wrapper: []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"},
	})
	for range 2 {
		c := dial(t, host(), p.address())
		mustAsk(t, c, "hello")
		c.Close()
		p.expect("closed")
		p.asleep()
	}
	c := dial(t, host(), p.address())
	mustAsk(t, c, "hello")
	p.signal(syscall.SIGTERM)
	p.refuses()
	mustAsk(t, c, "still here")
	c.Close()
	p.ends(prompt)
}

// SIGTERM comes at some moment of a tiproxy's first moments, with a client on
// its way: before it listens, while the child starts, while it serves.
func TestSignal_AtAnyMoment(t *testing.T) {
	t.Parallel()
	for range rounds(20, 200) {
		bind, dest := "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
		p := launch(t, setup{bind: bind, dest: dest, program: self, args: []string{"role", "echo", dest}, flags: []string{"--idle", "10ms"}})
		go askEarly(p, bind)
		<-time.After(rand.N(150 * time.Millisecond))
		p.signal(syscall.SIGTERM)
		p.ends(prompt)
		// Before it can catch signals, nothing is open yet that it could tidy up.
		how := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
		p.killed = how.Signaled() && how.Signal() == syscall.SIGTERM && p.log.text() == ""
	}
}

// askEarly is a client that comes as soon as it can.
func askEarly(p *tiproxy, address string) {
	for {
		if c, err := tryDial(host(), address); err == nil {
			_, _ = ask(c, "hello") // whatever is the answer: tiproxy is about to end
			c.Close()
			return
		}
		select {
		case <-p.done:
			return
		case <-time.After(time.Millisecond):
		}
	}
}
