//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A plain user may have few large pipes, and here somebody else of the same user
// has them all: those of tiproxy stay as small as they come, or there are none.
// See pipe-user-pages-soft in pipe(7).
func TestLimits_BulkOfAPlainUser(t *testing.T) {
	t.Parallel()
	needRoot(t, "becoming somebody else")
	hoard := openSession(t, host(), slices.Concat([]string{"setpriv"}, asNobody, []string{self, "role", "hoard"})...)
	hoard.hears("hoarded")
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "tally", dest}, dir: "/",
		wrapper: append([]string{"setpriv"}, asNobody...),
	})
	const size = 4_000_000
	want := stripesSum(size)
	results := make(chan string)
	clients := rounds(40, 400)
	for range clients {
		c := dial(t, host(), p.address())
		go func() { results <- tallied(c, size) }()
	}
	for range clients {
		if got := <-results; got != want {
			t.Errorf("the server got %q, want %q", got, want)
		}
	}
}

// hoard takes all large pipes that its user may have, and holds them until its
// stdin ends.
func hoard() int {
	const large = 1 << 20
	for n := 0; n < 1000; n++ {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			fmt.Fprintln(os.Stderr, "pipe2:", err)
			return 1
		}
		if _, err := unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, large); err != nil {
			fmt.Println("hoarded", n)
			_, _ = io.Copy(io.Discard, os.Stdin)
			return 0
		}
	}
	fmt.Fprintln(os.Stderr, "there is no end of large pipes")
	return 1
}

// tallied sends size bytes and returns what a tally says about them.
func tallied(c net.Conn, size int) string {
	if err := stripes(c, size); err != nil {
		return err.Error()
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err.Error()
	}
	answer, err := readLine(c)
	if err != nil {
		return err.Error()
	}
	return answer
}

// Connections that have done their work and stay cost little.
func TestLimits_IdleConnectionsAreCheap(t *testing.T) {
	t.Parallel()
	p := behind(t, "echo")
	for range 20 { // what is made once is there then
		mustAsk(t, dial(t, host(), p.address()), "hello")
	}
	before := readResources(t, p.pid())
	n := rounds(500, 4000)
	for range n {
		mustAsk(t, dial(t, host(), p.address()), "hello")
	}
	after := readResources(t, p.pid())
	per := float64(after.rssKiB-before.rssKiB) / float64(n)
	t.Logf("%.1f KiB and %.2f descriptors for each of %d connections", per, float64(after.descriptors-before.descriptors)/float64(n), n)
	const most = 128 // the race detector makes several of one
	if per > most {
		t.Errorf("%.1f KiB for each connection, want %d at most", per, most)
	}
	if grown := after.descriptors - before.descriptors; grown > 2*n+20 {
		t.Errorf("%d descriptors for %d connections", grown, n)
	}
}

// The file system of the log is full. That is no reason to serve nobody.
func TestLimits_DiskFullForTheLog(t *testing.T) {
	t.Parallel()
	needRoot(t, "a mount namespace")
	dir, bind, dest := sharedDir(t), "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	p := launch(t, setup{
		bind: bind, dest: dest, program: self, args: []string{"role", "talks", dest, "100000"}, flags: []string{"--idle", "50ms"},
		wrapper: []string{"unshare", "--mount", "--", "sh", "-c", `mount -t tmpfs -o size=128k none "$0" && exec "$@" >>"$0/log" 2>&1`, dir},
	})
	file := func() string { return fmt.Sprintf("/proc/%d/root%s/log", p.pid(), dir) }
	eventually(t, "it listens", func() error {
		c, err := tryDial(host(), bind)
		if err == nil {
			c.Close()
		}
		return err
	})
	for range 3 {
		c := dial(t, host(), bind)
		for range 10 {
			mustAsk(t, c, "hello")
		}
		c.Close()
		p.asleep()
	}
	if info, err := os.Stat(file()); err != nil || info.Size() < 100_000 {
		t.Errorf("the log has %v bytes, %v: the disk was not full", info, err)
	}
	p.signal(syscall.SIGTERM)
	p.ends(prompt)
}

// Many connect while tiproxy stands still: the kernel keeps them.
func TestLimits_BurstWhileStandingStill(t *testing.T) {
	t.Parallel()
	p := behind(t, "echo")
	mustAsk(t, dial(t, host(), p.address()), "hello")
	p.signal(syscall.SIGSTOP)
	clients := make([]net.Conn, rounds(500, 4000))
	for i := range clients {
		clients[i] = dial(t, host(), p.address())
	}
	p.signal(syscall.SIGCONT)
	var all sync.WaitGroup
	for _, c := range clients {
		all.Go(func() {
			if answer, err := ask(c, "hello"); err != nil {
				t.Errorf("a client got %q, %v", answer, err)
			}
		})
	}
	all.Wait()
}
