//go:build linux

package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The child is killed while it serves. Its clients' connections end, the next
// client has the next child, and the log says that it was not us.
func TestChildDeath_KilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	for range rounds(4, 60) {
		dest := "127.0.0.1:" + freePort(t)
		p := run(t, setup{
			dest: dest, program: self, args: []string{"role", "echo", dest}, flags: []string{"--drain-timeout", "0"},
			allow: []string{"closed"}, // a crash is warned of
		})
		for life := range 2 {
			c := dial(t, host(), p.address())
			mustAsk(t, c, "hello")
			child := p.onlyChild()
			dead := make(chan struct{})
			go func() {
				<-time.After(rand.N(20 * time.Millisecond))
				_ = syscall.Kill(child.pid, syscall.SIGKILL)
				close(dead)
			}()
			if err := askOn(c); err != io.EOF && !wasReset(err) {
				t.Errorf("life %d: the client was told %v, want the end of the connection", life, err)
			}
			<-dead
			if e := p.expect("closed"); !strings.Contains(e.line, "signal: killed") || !strings.Contains(e.text("hint"), "memory") {
				t.Errorf("life %d: neither the signal nor a hint in %s", life, e.line)
			}
			if next := mustAsk(t, dial(t, host(), p.address()), "hello"); next == fmt.Sprint(child.pid, " hello") {
				t.Errorf("life %d answers after its death", life)
			}
		}
		p.signal(syscall.SIGTERM)
		p.ends(prompt)
	}
}

// askOn says one thing after the other until that fails.
func askOn(c net.Conn) error {
	for {
		if _, err := ask(c, "still there?"); err != nil {
			return err
		}
	}
}

func TestChildDeath_InTheFirstMilliseconds(t *testing.T) {
	t.Parallel()
	for _, lifetime := range []string{"0", "0.001", "0.01", "0.05"} {
		for range rounds(3, 50) {
			p := run(t, setup{
				dest: "127.0.0.1:" + freePort(t), program: "sh", args: []string{"-c", "sleep " + lifetime + "; exit 7"},
				flags: []string{"--start-timeout", "10m"}, allow: []string{"start failed"},
			})
			if rest, err := askAfresh(t, host(), p.address(), "hello"); !wasReset(err) {
				t.Errorf("%s s: the client got %q, %v; want a reset", lifetime, rest, err)
			}
			if e := p.expect("start failed"); !strings.Contains(e.line, "exit status 7") {
				t.Errorf("%s s: another status in %s", lifetime, e.line)
			}
			p.asleep()
			p.signal(syscall.SIGTERM)
			p.ends(prompt)
		}
	}
}

// A grandchild that lives for long has inherited the child's output.
func TestChildDeath_GrandchildHoldsTheOutput(t *testing.T) {
	t.Parallel()
	p := run(t, setup{
		dest: "127.0.0.1:" + freePort(t), program: "sh", args: []string{"-c", "echo last words; sleep 1000 & exit 5"},
		flags: []string{"--start-timeout", "10m", "--stop-timeout", "10m"}, allow: []string{"start failed"},
	})
	began := time.Now()
	if rest, err := askAfresh(t, host(), p.address(), "hello"); !wasReset(err) {
		t.Errorf("the client got %q, %v; want a reset", rest, err)
	}
	if took := time.Since(began); took > prompt {
		t.Errorf("it was told after %v", took)
	}
	if e := p.expect("start failed"); !strings.Contains(e.line, "exit status 5") || !strings.Contains(e.line, "last words") {
		t.Errorf("neither status nor last words in %s", e.line)
	}
	p.expect("closed")
	p.asleep()
}

// A server that ends by itself when it has nothing to do is no failure.
func TestChildDeath_EndsByItselfWhenIdle(t *testing.T) {
	t.Parallel()
	p := behind(t, "homeward")
	for range 5 {
		c := dial(t, host(), p.address())
		mustAsk(t, c, "hello")
		c.Close()
		if e := p.expect("closed"); !strings.Contains(e.line, "exit status 0") {
			t.Errorf("%s", e.line)
		}
	}
	if failures := p.statistics().text("failures"); failures != "0" {
		t.Errorf("%s failures counted", failures)
	}
	p.asleep()
}

// reuseStorm fills the lowest pids of its namespace again and again: the kernel
// gives the first free one behind ns_last_pid. It tells who was ended by somebody.
const reuseStorm = `
while [ -e "$0" ]; do
	echo 10 >/proc/sys/kernel/ns_last_pid
	pids=
	for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 0.02 & pids="$pids $!"; done
	for pid in $pids; do wait $pid || echo victim $pid $?; done
	echo round
done`

// While children are stopped, their pids are given to strangers as soon as they
// are free. Not one of these may get a signal that was meant for them.
func TestChildDeath_ReusedPidsAreSpared(t *testing.T) {
	t.Parallel()
	needRoot(t, "a PID namespace")
	dest, goOn := "127.0.0.1:"+freePort(t), filepath.Join(sharedDir(t), "on")
	makeFile(t, goOn)
	p := run(t, setup{
		dest: dest, program: "sh", flags: []string{"--idle", "1ms"},
		args:    []string{"-c", `(setsid sleep 1000 &); sleep 1000 & sleep 1000 & exec "$@"`, "sh", self, "role", "echo", dest},
		wrapper: []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "--"},
	})
	storm := openSession(t, host(), "nsenter", "-t", strconv.Itoa(p.pid()), "-p", "-m", "sh", "-c", reuseStorm, goOn)
	storm.hears("round\nround\n")
	n, used := rounds(30, 1000), map[string]bool{}
	for range n {
		c := dial(t, host(), p.address())
		mustAsk(t, c, "hello")
		c.Close()
		used[p.expect("closed").text("pid")] = true
	}
	if err := os.Remove(goOn); err != nil {
		t.Fatal(err)
	}
	storm.ends()
	if said := storm.stdout.text(); strings.Contains(said, "victim") {
		t.Errorf("strangers were hit: %s", strings.ReplaceAll(said, "round\n", ""))
	}
	if len(used) == n {
		t.Errorf("%d children had %d pids: none was used again, so this shows nothing", n, len(used))
	}
	t.Logf("%d children had %d pids in %d rounds of the storm", n, len(used), strings.Count(storm.stdout.text(), "round"))
}
