package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mustBefore runs Before, which must find nobody.
func mustBefore(t *testing.T, l *Listen) {
	t.Helper()
	if err := l.Before(t.Context()); err != nil {
		t.Fatalf("Before: %v", err)
	}
}

// mustWait waits until the tree is ready.
func mustWait(t *testing.T, l *Listen, tree Tree) net.Addr {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	addr, err := l.Wait(ctx, tree)
	if err != nil {
		t.Fatalf("Wait: %v", err)
	}
	return addr
}

// mustNotWait checks that the tree does not become ready, and returns why.
func mustNotWait(t *testing.T, l *Listen, tree Tree) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	addr, err := l.Wait(ctx, tree)
	if err == nil {
		t.Fatalf("Wait = %v, want an error", addr)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait = %v, which does not wrap the context's end", err)
	}
	return err
}

// bothWays runs a test with netlink and with /proc.
func bothWays(t *testing.T, f func(t *testing.T, l *Listen)) {
	t.Helper()
	for _, noNetlink := range []bool{false, true} {
		t.Run(map[bool]string{false: "netlink", true: "proc"}[noNetlink], func(t *testing.T) {
			sameDescriptors(t)
			f(t, &Listen{noNetlink: noNetlink})
		})
	}
}

func TestListenSeesTheChild(t *testing.T) {
	tests := []struct {
		name, dest, kind, bind string
	}{
		{"IPv4", "127.0.0.1", "tcp4", "127.0.0.1"},
		{"IPv4 wildcard", "127.0.0.1", "tcp4", "0.0.0.0"},
		{"another loopback address", "127.7.7.7", "tcp4", "0.0.0.0"},
		{"IPv6", "::1", "tcp6", "[::1]"},
		{"IPv6 wildcard", "::1", "tcp6", "[::]"},
		{"dual-stack serves IPv4", "127.0.0.1", "tcp", "[::]"},
		{"dual-stack serves IPv6", "::1", "tcp", "[::]"},
		{"multipath TCP, the default of Go", "127.0.0.1", "tcp4,mptcp", "127.0.0.1"},
		{"dual-stack multipath TCP", "127.0.0.1", "tcp,mptcp", "[::]"},
		{"bound to a device", "127.0.0.1", "tcp4,device", "127.0.0.1"},
		{"a name", "both.test", "tcp4", "127.0.0.1"},
		{"a name, IPv6 only", "both.test", "tcp6", "[::1]"},
		{"an unspecified dest", "0.0.0.0", "tcp4", "127.0.0.1"},
		{"IPv4 written as IPv6", "::ffff:127.0.0.1", "tcp4", "127.0.0.1"},
	}
	c := startChild(t, "serve")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if strings.HasSuffix(tt.dest, ".test") {
				needNamespace(t)
			}
			bothWays(t, func(t *testing.T, l *Listen) {
				port := freePort(t)
				l.Dest = tcpDest(tt.dest, port)
				l.OnGuess = func(msg string) { t.Errorf("guessed: %s", msg) }
				mustBefore(t, l)
				mustNotWait(t, l, pidTree{c.pid()})
				c.tell(fmt.Sprintf("listen %s %s:%d", tt.kind, tt.bind, port))
				addr := mustWait(t, l, pidTree{c.pid()})
				c.mustHear("listening")
				mustBeReached(t, c, addr)
			})
		})
	}
}

// mustBeReached connects once to addr, and checks that this was the only
// connection the child took: the probe makes none.
func mustBeReached(t *testing.T, c *child, addr net.Addr) {
	t.Helper()
	conn, err := net.DialTimeout(addr.Network(), addr.String(), bound)
	if err != nil {
		t.Fatalf("the address that Wait returned: %v", err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(bound))
	conn.Read(make([]byte, 1)) // until the child has taken and closed it
	if n := c.close(); n != "1" {
		t.Errorf("child took %s connections, want 1: a Listen never connects", n)
	}
}

func TestListenUnix(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/real", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, bind, dest string }{
		{"the same path", dir + "/a b.sock", dir + "/a b.sock"},
		{"a relative path", "b.sock", dir + "/real/b.sock"},
		{"through a link", dir + "/link/c.sock", dir + "/real/c.sock"},
		{"dest through a link", "d.sock", dir + "/link/d.sock"},
	}
	c := startChild(t, "serve")
	c.tell("chdir " + dir + "/real")
	c.mustHear("moved")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, l *Listen) {
				l.Dest = Dest{Network: "unix", Path: tt.dest}
				mustBefore(t, l)
				mustNotWait(t, l, pidTree{c.pid()})
				c.tell("listen unix " + tt.bind)
				addr := mustWait(t, l, pidTree{c.pid()})
				c.mustHear("listening")
				mustBeReached(t, c, addr)
			})
		})
	}
}

// TestListenUnixRenamed binds under another name and moves the file to its
// place, as programs do that want their socket to appear ready.
func TestListenUnixRenamed(t *testing.T) {
	dir := t.TempDir()
	l := &Listen{Dest: Dest{Network: "unix", Path: dir + "/app.sock"}}
	mustBefore(t, l)
	c := startChild(t, "serve")
	c.listen("unix", dir+"/new.sock")
	err := mustNotWait(t, l, pidTree{c.pid()})
	if want := "the child listens on unix:" + dir + "/new.sock, not on unix:" + dir + "/app.sock"; !strings.Contains(err.Error(), want) {
		t.Errorf("Wait = %v\nwant it to say %q", err, want)
	}
	if err := os.Rename(dir+"/new.sock", dir+"/app.sock"); err != nil {
		t.Fatal(err)
	}
	mustWait(t, l, pidTree{c.pid()})
}

func TestListenUnixStaleFile(t *testing.T) {
	bothWays(t, func(t *testing.T, l *Listen) {
		l.Dest = Dest{Network: "unix", Path: t.TempDir() + "/app.sock"}
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: l.Dest.Path})
		if err != nil {
			t.Fatal(err)
		}
		ln.SetUnlinkOnClose(false)
		var stranger *StrangerError
		if err := l.Before(t.Context()); !errors.As(err, &stranger) || stranger.PID != os.Getpid() {
			t.Errorf("Before = %v, want a stranger of pid %d", err, os.Getpid())
		}
		ln.Close()
		mustBefore(t, l)
		mustNotWait(t, l, pidTree{os.Getpid()})
	})
}

// TestSameNameOfAnotherFile: a container that shares our network namespace may
// bind the same path in its own mount namespace.
func TestSameNameOfAnotherFile(t *testing.T) {
	path := t.TempDir() + "/app.sock"
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := &scene{dest: Dest{Network: "unix", Path: path}}
	st := &unix.Stat_t{Ino: 7}
	for ino, want := range map[uint32]bool{7: true, 8: false} {
		if got := s.boundByName(socket{path: path, hasFile: true, vfsIno: ino}, st); got != want {
			t.Errorf("inode %d is inode 7: %v", ino, got)
		}
	}
}

func TestStrangerBefore(t *testing.T) {
	bothWays(t, func(t *testing.T, l *Listen) {
		for _, bind := range []string{"127.0.0.1", "0.0.0.0", "[::]"} {
			ln, err := listenAs("tcp", bind+":0")
			if err != nil {
				t.Fatal(err)
			}
			l.Dest = tcpDest("127.0.0.1", uint16(ln.Addr().(*net.TCPAddr).Port))
			err = l.Before(t.Context())
			ln.Close()
			var stranger *StrangerError
			if !errors.As(err, &stranger) {
				t.Fatalf("%s: Before = %v, want a *StrangerError", bind, err)
			}
			name := commandName(os.Getpid())
			if stranger.PID != os.Getpid() || stranger.Name != name || stranger.UID != os.Getuid() {
				t.Errorf("stranger = %+v, want this process", stranger)
			}
			want := fmt.Sprintf("%s is taken by process %d (%s, uid %d)", l.Dest, os.Getpid(), name, os.Getuid())
			if !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "--ready dial") {
				t.Errorf("Before = %v\nwant %q and a way out", err, want)
			}
			mustBefore(t, l)
		}
	})
}

// TestStrangerOnOneOfTheAddresses: a name's every address counts.
func TestStrangerOnOneOfTheAddresses(t *testing.T) {
	needNamespace(t)
	ln, err := listenAs("tcp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	l := &Listen{Dest: tcpDest("both.test", uint16(ln.Addr().(*net.TCPAddr).Port))}
	var stranger *StrangerError
	if err := l.Before(t.Context()); !errors.As(err, &stranger) {
		t.Errorf("Before = %v, want a *StrangerError", err)
	}
}

func TestStrangerDuringTheStart(t *testing.T) {
	bothWays(t, func(t *testing.T, l *Listen) {
		port := freePort(t)
		l.Dest = tcpDest("127.0.0.1", port)
		mustBefore(t, l)
		c := startChild(t, "serve")
		ln, err := listenAs("tcp4", l.Dest.String())
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		err = mustNotWait(t, l, pidTree{c.pid()})
		var stranger *StrangerError
		if !errors.As(err, &stranger) || stranger.PID != os.Getpid() {
			t.Errorf("Wait = %v, want it to wrap the stranger", err)
		}
		ln.Close()
		c.listen("tcp4", l.Dest.String())
		mustWait(t, l, pidTree{c.pid()})
	})
}

// TestChildWinsWhileWaiting: the stranger goes during the same Wait.
func TestChildWinsWhileWaiting(t *testing.T) {
	port := freePort(t)
	l := &Listen{Dest: tcpDest("127.0.0.1", port)}
	mustBefore(t, l)
	c := startChild(t, "serve")
	ln, err := listenAs("tcp4", l.Dest.String())
	if err != nil {
		t.Fatal(err)
	}
	tree := &signalTree{pids: pidTree{c.pid()}, asked: make(chan struct{}, 1)}
	waited := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		defer cancel()
		_, err := l.Wait(ctx, tree)
		waited <- err
	}()
	<-tree.asked // the stranger was seen
	ln.Close()
	c.listen("tcp4", l.Dest.String())
	if err := <-waited; err != nil {
		t.Errorf("Wait: %v", err)
	}
}

// signalTree tells when it is asked.
type signalTree struct {
	pids  pidTree
	asked chan struct{}
}

func (s *signalTree) Pids() []int {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	return s.pids
}

// countingTree counts how often it is asked.
type countingTree struct{ asked int }

func (c *countingTree) Pids() []int {
	c.asked++
	return nil
}

// TestStrangerIsNotLookedIntoAllTheTime: to look for a socket's owner takes much
// longer than to see the socket.
func TestStrangerIsNotLookedIntoAllTheTime(t *testing.T) {
	ln, err := listenAs("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	l := &Listen{Dest: tcpDest("127.0.0.1", ln.Addr().(*net.TCPAddr).AddrPort().Port())}
	tree := &countingTree{}
	mustNotWait(t, l, tree)
	// 0, 1, 3, 7, 15, 31, 63 ms and for the error; a wait that was held up
	// may see a few more.
	if tree.asked < 2 || tree.asked > 16 {
		t.Errorf("the tree was asked %d times, want a few", tree.asked)
	}
}

func TestGrandchildListens(t *testing.T) {
	bothWays(t, func(t *testing.T, l *Listen) {
		l.Dest = tcpDest("127.0.0.1", freePort(t))
		mustBefore(t, l)
		c := startChild(t, "parent", "serve")
		c.listen("tcp4", l.Dest.String())
		mustWait(t, l, descendants(c.pid()))
		var stranger *StrangerError
		if err := mustNotWait(t, l, pidTree{c.pid()}); !errors.As(err, &stranger) {
			t.Errorf("Wait for the parent alone = %v, want a stranger", err)
		}
	})
}

// lateTree learns of a process only when it is asked again, as happens to a
// tree whose newest process was just forked.
type lateTree struct {
	pid, asked int
}

func (l *lateTree) Pids() []int {
	if l.asked++; l.asked == 1 {
		return nil
	}
	return []int{l.pid}
}

func TestForkInProgressIsNoStranger(t *testing.T) {
	l := &Listen{Dest: tcpDest("127.0.0.1", freePort(t))}
	mustBefore(t, l)
	c := startChild(t, "serve")
	c.listen("tcp4", l.Dest.String())
	mustWait(t, l, &lateTree{pid: c.pid()})
}

func TestReuseport(t *testing.T) {
	a, b := startChild(t, "serve"), startChild(t, "serve")
	bothWays(t, func(t *testing.T, l *Listen) {
		l.Dest = tcpDest("127.0.0.1", freePort(t))
		mustBefore(t, l)
		a.listen("tcp4,reuseport", l.Dest.String())
		b.listen("tcp4,reuseport", l.Dest.String())
		mustWait(t, l, pidTree{a.pid(), b.pid()})
		// Whichever the kernel names, clients would go to the other one too.
		for _, only := range []*child{a, b} {
			var stranger *StrangerError
			if err := mustNotWait(t, l, pidTree{only.pid()}); !errors.As(err, &stranger) {
				t.Errorf("Wait for one of two = %v, want a stranger", err)
			}
		}
		a.close()
		b.close()
	})
}

func TestDiagnose(t *testing.T) {
	c := startChild(t, "serve")
	bothWays(t, func(t *testing.T, l *Listen) {
		port := freePort(t)
		l.Dest = tcpDest("127.0.0.1", port)
		tree := pidTree{c.pid()}
		none := fmt.Sprintf("nothing of the child listens on 127.0.0.1:%d", port)
		if got := l.Diagnose(tree); got != none {
			t.Errorf("Diagnose = %q, want %q", got, none)
		}
		if err := mustNotWait(t, l, tree); !strings.HasPrefix(err.Error(), none+": ") {
			t.Errorf("Wait = %v, want it to begin with %q", err, none)
		}
		c.listen("tcp6", fmt.Sprintf("[::1]:%d", port))
		other := fmt.Sprintf("the child listens on [::1]:%d, not on 127.0.0.1:%d", port, port)
		if got := l.Diagnose(tree); got != other {
			t.Errorf("Diagnose = %q, want %q", got, other)
		}
		if err := mustNotWait(t, l, tree); !strings.HasPrefix(err.Error(), other+": ") {
			t.Errorf("Wait = %v, want it to begin with %q", err, other)
		}
		l.Dest.Host = "::1"
		if got, want := l.Diagnose(tree), fmt.Sprintf("the child listens on [::1]:%d (process %d)", port, c.pid()); got != want {
			t.Errorf("Diagnose = %q, want %q", got, want)
		}
		c.close()
	})
}

// TestDiagnoseTellsWhatANameStandsFor: otherwise "listens on [::1], not on
// localhost" would be no help.
func TestDiagnoseTellsWhatANameStandsFor(t *testing.T) {
	needNamespace(t)
	ln, err := listenAs("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	l := &Listen{Dest: tcpDest("six.test", port)}
	want := fmt.Sprintf("the child listens on 127.0.0.1:%d, not on six.test:%d (::1)", port, port)
	if got := l.Diagnose(pidTree{os.Getpid()}); got != want {
		t.Errorf("Diagnose = %q, want %q", got, want)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	l := &Listen{Dest: tcpDest("127.0.0.1", freePort(t))}
	gone := errors.New("the child has ended")
	ctx, cancel := context.WithCancelCause(t.Context())
	waited := make(chan error, 1)
	go func() {
		_, err := l.Wait(ctx, pidTree(nil))
		waited <- err
	}()
	cancel(gone)
	select {
	case err := <-waited:
		if !errors.Is(err, gone) {
			t.Errorf("Wait = %v, want it to wrap %v", err, gone)
		}
	case <-time.After(bound):
		t.Fatal("Wait goes on after its context")
	}
}

func TestLocal(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "127.1.2.3", "::1", "localhost", "0.0.0.0", "::"} {
		if err := Local(t.Context(), tcpDest(host, 1)); err != nil {
			t.Errorf("Local(%s) = %v", host, err)
		}
	}
	if err := Local(t.Context(), Dest{Network: "unix", Path: "/x"}); err != nil {
		t.Errorf("Local(unix) = %v", err)
	}
	// RFC 5737 and RFC 3849: addresses that nobody has.
	for _, host := range []string{"192.0.2.1", "2001:db8::1"} {
		err := Local(t.Context(), tcpDest(host, 1))
		if err == nil || !strings.Contains(err.Error(), "use --ready dial") {
			t.Errorf("Local(%s) = %v, want a way out", host, err)
		}
	}
}

// TestWildcardDoesNotServeOtherMachines: to the kernel's lookup every address
// looks served by a wildcard socket.
func TestWildcardDoesNotServeOtherMachines(t *testing.T) {
	ln, err := listenAs("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	l := &Listen{Dest: tcpDest("192.0.2.1", uint16(ln.Addr().(*net.TCPAddr).Port))}
	mustNotWait(t, l, pidTree{os.Getpid()})
}
