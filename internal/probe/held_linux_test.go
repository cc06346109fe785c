package probe

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHeldNamesTheSocketsThatServeDest(t *testing.T) {
	bothWays(t, func(t *testing.T, l *Listen) {
		first := shareListen(t, "127.0.0.1:0")
		second := shareListen(t, first.Addr().String())
		elsewhere := shareListen(t, "127.0.0.2:0")
		l.Dest = tcpDest("127.0.0.1", uint16(first.Addr().(*net.TCPAddr).Port))
		held, err := l.Held(context.Background(), pidTree{os.Getpid()})
		if err != nil || len(held) != 2 {
			t.Fatalf("Held = %v, %v, want both sockets of the group", held, err)
		}
		for i, h := range held {
			var st unix.Stat_t
			if err := unix.Fstat(h.FD, &st); err != nil || st.Ino != h.Inode {
				t.Errorf("socket %d: descriptor %d has inode %d, %v, want %d", i, h.FD, st.Ino, err, h.Inode)
			}
			if h.PID != os.Getpid() || h.Addr.String() != first.Addr().String() {
				t.Errorf("socket %d: %+v", i, h)
			}
		}
		if held[0] == held[1] {
			t.Errorf("the same socket twice: %v", held)
		}
		second.Close()
		elsewhere.Close()
	})
}

func TestHeldNamesNobodyBesideAStranger(t *testing.T) {
	bothWays(t, func(t *testing.T, l *Listen) {
		ours := shareListen(t, "127.0.0.1:0")
		l.Dest = tcpDest("127.0.0.1", uint16(ours.Addr().(*net.TCPAddr).Port))
		c := startChild(t, "serve")
		if held, err := l.Held(context.Background(), pidTree{c.cmd.Process.Pid}); err != nil || len(held) > 0 {
			t.Errorf("Held = %v, %v, but the socket is another's", held, err)
		}
	})
}

// shareListen listens with SO_REUSEPORT.
func shareListen(t *testing.T, addr string) net.Listener {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	}}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// A process that has ended hides nothing, though its number still stands for it.
func TestEndedProcessHidesNothing(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() //nolint:errcheck // "true" ends with 0
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	tree := pidTree{cmd.Process.Pid}
	if v := lookAt(tree); v.blind {
		t.Error("it is said to hide its descriptors")
	}
	_, err := holders([]socket{{inode: 1}}, tree)
	if !errors.Is(err, unix.ESRCH) || errors.Is(err, ErrNotProven) {
		t.Errorf("who holds its socket: %v", err)
	}
}
