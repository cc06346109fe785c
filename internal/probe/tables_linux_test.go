package probe

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listenerInode is what the kernel itself says.
func listenerInode(ln net.Listener) (uint64, error) {
	conn, err := ln.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	var statErr error
	err = conn.Control(func(fd uintptr) { statErr = unix.Fstat(int(fd), &st) })
	return st.Ino, errors.Join(err, statErr)
}

// TestBothTablesAgree asks both ways for the same real sockets.
func TestBothTablesAgree(t *testing.T) {
	nl, err := openNetlink()
	if err != nil {
		t.Fatal(err)
	}
	defer nl.close()
	tests := []struct{ kind, bind, dest string }{
		{"tcp4", "127.0.0.1:0", "127.0.0.1"},
		{"tcp4", "0.0.0.0:0", "127.0.0.1"},
		{"tcp6", "[::1]:0", "::1"},
		{"tcp6", "[::]:0", "::1"},
		{"tcp", "[::]:0", "127.0.0.1"},
		{"tcp4,mptcp", "127.0.0.1:0", "127.0.0.1"},
		{"tcp,mptcp", "[::]:0", "127.0.0.1"},
	}
	for _, tt := range tests {
		ln, err := listenAs(tt.kind, tt.bind)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		want, err := listenerInode(ln)
		if err != nil {
			t.Fatal(err)
		}
		port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
		d := newTargets([]netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(tt.dest), port)})[0]
		for _, tab := range []tables{nl, procTables{}} {
			s, ok, err := tab.lookup(d)
			if err != nil || !ok || s.inode != want || s.uid != os.Getuid() || s.addr.Port() != port {
				t.Errorf("%T: %s on %s: %+v, %v, %v; want inode %d", tab, tt.kind, tt.bind, s, ok, err, want)
			}
			all, err := tab.listeners(0)
			if err != nil || !slices.ContainsFunc(all, func(s socket) bool { return s.inode == want }) {
				t.Errorf("%T: %s on %s is not among all listeners: %v", tab, tt.kind, tt.bind, err)
			}
		}
	}
}

// TestLookupPassesOver checks what must not count as listening on 127.0.0.1.
func TestLookupPassesOver(t *testing.T) {
	bound, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(bound)
	if err := unix.Bind(bound, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(bound)
	if err != nil {
		t.Fatal(err)
	}
	mustNotFind(t, "a socket that is bound, not listening", portOf(sa))

	other, err := listenAs("tcp4", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	mustNotFind(t, "another address", other.Addr().(*net.TCPAddr).AddrPort().Port())

	client, err := net.Dial("tcp4", other.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	mustNotFind(t, "a connection's port", client.LocalAddr().(*net.TCPAddr).AddrPort().Port())
}

func mustNotFind(t *testing.T, what string, port uint16) {
	t.Helper()
	nl, err := openNetlink()
	if err != nil {
		t.Fatal(err)
	}
	defer nl.close()
	d := newTargets([]netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)})[0]
	for _, tab := range []tables{nl, procTables{}} {
		if s, ok, err := tab.lookup(d); ok || err != nil {
			t.Errorf("%T: %s counts as listening: %+v, %v", tab, what, s, err)
		}
	}
}

// TestIPv6Only: only the kernel's own lookup can tell.
func TestIPv6Only(t *testing.T) {
	ln, err := listenAs("tcp6", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	l := &Listen{Dest: tcpDest("127.0.0.1", ln.Addr().(*net.TCPAddr).AddrPort().Port())}
	err = mustNotWait(t, l, pidTree{os.Getpid()})
	if !strings.Contains(err.Error(), "the child listens on [::]:") {
		t.Errorf("Wait = %v", err)
	}
}

func TestUnixTablesAgree(t *testing.T) {
	path := t.TempDir() + "/a socket"
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	want, err := listenerInode(ln)
	if err != nil {
		t.Fatal(err)
	}
	nl, err := openNetlink()
	if err != nil {
		t.Fatal(err)
	}
	defer nl.close()
	for _, tab := range []tables{nl, procTables{}} {
		all, err := tab.unixListeners()
		i := slices.IndexFunc(all, func(s socket) bool { return s.inode == want })
		if err != nil || i < 0 || all[i].path != path {
			t.Errorf("%T: %v, %v; want inode %d, path %q", tab, all, err, want, path)
		}
	}
}

// TestHides tells a process that is gone from one that hides.
func TestHides(t *testing.T) {
	if hides(os.Getpid(), nil) {
		t.Error("a process that was looked into hides")
	}
	if !hides(1, os.ErrPermission) {
		t.Error("a process that may not be looked into does not hide")
	}
	if !hides(os.Getpid(), os.ErrNotExist) {
		t.Error("a process that lives but is not in /proc does not hide")
	}
	c := startChild(t, "serve")
	pid := c.pid()
	c.end()
	if hides(pid, os.ErrNotExist) {
		t.Error("a process that is gone hides")
	}
}

func TestPause(t *testing.T) {
	const us, ms = time.Microsecond, time.Millisecond
	tests := []struct{ elapsed, cost, want time.Duration }{
		{0, 10 * us, 200 * us},
		{49 * ms, 10 * us, 200 * us},
		{50 * ms, 10 * us, 500 * us},
		{time.Second, 10 * us, 2 * ms},
		{10 * time.Second, 10 * us, 5 * ms},
		{0, ms, 9 * ms},
	}
	for _, tt := range tests {
		if got := pause(tt.elapsed, tt.cost); got != tt.want {
			t.Errorf("pause(%v, %v) = %v, want %v", tt.elapsed, tt.cost, got, tt.want)
		}
	}
}

// BenchmarkLook is what waiting costs for each poll.
func BenchmarkLook(b *testing.B) {
	l := &Listen{Dest: tcpDest("127.0.0.1", 1)}
	s, err := l.open(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer s.tables.close()
	w := watch{listen: l, scene: s, tree: pidTree(nil)}
	b.ReportAllocs()
	for b.Loop() {
		if addr, err := w.look(time.Now()); addr != nil || err != nil {
			b.Fatal(addr, err)
		}
	}
}

// BenchmarkOpen is what a Wait costs before its first look.
func BenchmarkOpen(b *testing.B) {
	l := &Listen{Dest: tcpDest("127.0.0.1", 1)}
	for b.Loop() {
		s, err := l.open(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		s.tables.close()
	}
}

// BenchmarkNoticed measures from listen(2) to the end of Wait.
func BenchmarkNoticed(b *testing.B) {
	var took []time.Duration
	for b.Loop() {
		l := &Listen{Dest: tcpDest("127.0.0.1", 2000)}
		ready := make(chan time.Time, 1)
		tree := pidTree{os.Getpid()}
		go waitReady(b, l, tree, ready)
		ln, err := listenAs("tcp4", l.Dest.String())
		if err != nil {
			b.Fatal(err)
		}
		listening := time.Now()
		took = append(took, (<-ready).Sub(listening))
		ln.Close()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "median-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

func waitReady(b *testing.B, l *Listen, tree Tree, ready chan<- time.Time) {
	if _, err := l.Wait(b.Context(), tree); err != nil {
		b.Error(err)
	}
	ready <- time.Now()
}
