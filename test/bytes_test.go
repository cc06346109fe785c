//go:build linux

package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// behind runs a tiproxy with one of our servers behind it, all on TCP.
func behind(t *testing.T, role string, more ...string) *tiproxy {
	t.Helper()
	dest := "127.0.0.1:" + freePort(t)
	return run(t, setup{dest: dest, program: self, args: append([]string{"role", role, dest}, more...)})
}

// An end in one direction is an end in that one only.
func TestBytes_HalfCloseBothWays(t *testing.T) {
	t.Parallel()
	n := rounds(4_000_000, 50_000_000)
	t.Run("the client ends first", func(t *testing.T) {
		t.Parallel()
		c := dial(t, host(), behind(t, "answers").address())
		if _, err := fmt.Fprintln(c, "ask", n); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := sumUntilEnd(c); got != stripesSum(n) || err != nil {
			t.Errorf("the client got %s, %v; want %s", got, err, stripesSum(n))
		}
	})
	t.Run("the server ends first", func(t *testing.T) {
		t.Parallel()
		p := behind(t, "speaks", fmt.Sprint(n))
		c := dial(t, host(), p.address())
		if got, err := sumUntilEnd(c); got != stripesSum(n) || err != nil {
			t.Errorf("the client got %s, %v; want %s", got, err, stripesSum(n))
		}
		if err := stripes(c, n); err != nil {
			t.Errorf("the client cannot go on: %v", err)
		}
		c.Close()
		p.says("child heard " + stripesSum(n) + " <nil>")
	})
}

// Connections that are closed on one side stay for as long as the other side
// likes, at two descriptors each. They end with either peer, and leave nothing.
func TestBytes_HalfClosedPileEndsWithItsPeers(t *testing.T) {
	t.Parallel()
	p := behind(t, "holds")
	first := dial(t, host(), p.address())
	p.expect("opened")
	p.holdsConnections(1)
	before := process{pid: p.pid()}.descriptors()
	pile := make([]net.Conn, rounds(50, 500))
	for i := range pile {
		pile[i] = dial(t, host(), p.address())
		if err := pile[i].(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	p.holdsConnections(1 + len(pile))
	// What tiproxy held for a moment when it was counted first, such as its watch
	// on those who wait, is no more than a few.
	const few = 5
	eventually(t, "two descriptors for each", func() error {
		n := (process{pid: p.pid()}).descriptors() - before
		if n > 2*len(pile)+few || n < 2*len(pile)-few && os.Getenv(pathVariable) != "direct" {
			return fmt.Errorf("%d descriptors for %d connections", n, len(pile))
		}
		return nil
	})
	half := len(pile) / 2
	for _, c := range pile[:half] {
		resetConn(c)
	}
	p.holdsConnections(1 + len(pile) - half)
	if err := syscall.Kill(p.onlyChild().pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.expect("closed")
	for _, c := range append(pile[half:], first) {
		if _, err := io.Copy(io.Discard, c); err != nil && !wasReset(err) {
			t.Errorf("a client was told %v", err)
		}
		c.Close()
	}
	p.asleep()
	eventually(t, "every descriptor is given back", func() error {
		if n := (process{pid: p.pid()}).descriptors(); n > before {
			return fmt.Errorf("%d descriptors, %d before", n, before)
		}
		return nil
	})
}

// What was cut off never looks whole.
func TestBytes_ResetStaysAReset(t *testing.T) {
	t.Parallel()
	p := behind(t, "resets")
	for _, ended := range []bool{false, true} {
		c := dial(t, host(), p.address())
		if _, err := fmt.Fprintln(c, "reset"); err != nil {
			t.Fatal(err)
		}
		some := make([]byte, 1000)
		if _, err := io.ReadFull(c, some); err != nil {
			t.Fatal(err)
		}
		if ended {
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
		} else if _, err := fmt.Fprintln(c, "received"); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(c); len(rest) != 0 || !wasReset(err) {
			t.Errorf("half-closed %v: the client got %d bytes more and %v, want a reset", ended, len(rest), err)
		}
	}
	for _, ended := range []bool{false, true} {
		c := dial(t, host(), p.address())
		mustAsk(t, c, "watch")
		if ended {
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		resetConn(c)
	}
	// After a half-close the server has seen an end before the reset came.
	if !p.log.until(bound, func() bool { return strings.Count(p.log.text(), "child saw a reset") == 2 }) {
		t.Fatal("the server did not see both connections end")
	}
	p.says("child saw a reset: true")
}

// The child has answered and is gone before its client begins to read.
func TestBytes_TailOutlivesTheChild(t *testing.T) {
	t.Parallel()
	const n = 3_000_000 // more than one socket's buffers hold
	p := behind(t, "dumps", fmt.Sprint(n))
	c := dial(t, host(), p.address())
	if err := c.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	got, err := sumUntilEnd(&lazy{c})
	if got != stripesSum(n) || err != nil {
		t.Errorf("the client got %s, %v; want %s", got, err, stripesSum(n))
	}
	if e := p.expect("closed"); !strings.Contains(e.line, "exit status 0") {
		t.Errorf("%s", e.line)
	}
}

// lazy reads little, and not often.
type lazy struct{ net.Conn }

func (l *lazy) Read(b []byte) (int, error) {
	<-time.After(time.Millisecond)
	return l.Conn.Read(b[:min(len(b), 10_000)])
}

// ss(8) shows the timers of both legs.
func TestBytes_KeepaliveOnBothLegs(t *testing.T) {
	t.Parallel()
	p := behind(t, "echo")
	mustAsk(t, dial(t, host(), p.address()), "hello")
	_, destPort, err := net.SplitHostPort(p.setup.dest)
	if err != nil {
		t.Fatal(err)
	}
	for leg, filter := range map[string]string{"client": "sport = :" + p.port(), "child": "dport = :" + destPort} {
		out, err := exec.Command("ss", "-Htno", "state", "established", filter).CombinedOutput()
		if err != nil || strings.Count(string(out), "timer:(keepalive,") != 1 {
			t.Errorf("the leg to the %s has no keepalive timer, %v: %s", leg, err, out)
		}
	}
}

// The client's machine has lost its memory: no end and no reset was sent, and
// a probe finds out.
func TestBytes_ClientThatVanished(t *testing.T) {
	t.Parallel()
	needRoot(t, "TCP_REPAIR")
	p := behind(t, "echo")
	c := dial(t, host(), p.address())
	mustAsk(t, c, "hello")
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// A socket in repair mode is closed without a word; see tcp_repair(4).
	if ctl := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
	}); ctl != nil || err != nil {
		t.Fatal(ctl, err)
	}
	c.Close()
	began := time.Now()
	if p.statistics().text("connections") != "1" {
		t.Fatal("the client was missed at once: it has not vanished without a word")
	}
	limit := time.NewTimer(3 * time.Minute)
	defer limit.Stop()
	for p.statistics().text("connections") != "0" {
		select {
		case <-limit.C:
			t.Fatal("still not missed")
		case <-time.After(250 * time.Millisecond):
		}
	}
	t.Logf("missed after %v", time.Since(began).Round(time.Second))
}

// Urgent bytes, tiny segments and tiny windows, with bulk among them: every
// byte arrives, in order.
func TestBytes_UrgentDataAndTinySegments(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"alone": 0, "among bulk": 300_000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := behind(t, "tally")
			c := dial(t, host(), p.address()).(*net.TCPConn)
			setOption(t, c, unix.SOL_SOCKET, unix.SO_SNDBUF, 4096)
			sum, n := sha256.New(), 0
			both := io.MultiWriter(c, sum)
			for range 10 {
				for _, b := range []byte("tiny") {
					if _, err := both.Write([]byte{b}); err != nil {
						t.Fatal(err)
					}
				}
				sendUrgent(t, c, '!')
				sum.Write([]byte{'!'})
				if err := stripes(both, size); err != nil {
					t.Fatal(err)
				}
				n += 5 + size
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("%d %x", n, sum.Sum(nil))
			if got, err := readLine(c); got != want {
				t.Errorf("the server got %q, %v; want %q", got, err, want)
			}
		})
	}
}

func sendUrgent(t *testing.T, c *net.TCPConn, b byte) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if wait := raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), []byte{b}, unix.MSG_OOB, nil)
		return err != unix.EAGAIN
	}); wait != nil || err != nil {
		t.Fatal(os.NewSyscallError("sendto", err), wait)
	}
}

func setOption(t *testing.T, c syscall.Conn, level, option, value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if ctl := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, value) }); ctl != nil || err != nil {
		t.Fatal(ctl, os.NewSyscallError("setsockopt", err))
	}
}
