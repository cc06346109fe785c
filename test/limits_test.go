//go:build linux

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A plain user may have few large pipes, and more connections than that move
// bulk at the same time, held up by a child that stands still. See
// pipe-user-pages-soft in pipe(7).
func TestLimits_BulkOfAPlainUser(t *testing.T) {
	t.Parallel()
	needRoot(t, "becoming somebody else")
	space, dest := newNetwork(t), "127.0.0.1:3000"
	setNetwork(t, space, "tcp_wmem", "4096 16384 65536") // so that the bytes do not end up in buffers
	setNetwork(t, space, "tcp_rmem", "4096 65536 65536")
	p := run(t, setup{
		space: space, dest: dest, program: self, args: []string{"role", "tally", dest}, dir: "/",
		wrapper: append([]string{"setpriv"}, asNobody...),
	})
	const size = 1_000_000
	clients := make([]net.Conn, rounds(80, 400))
	for i := range clients {
		clients[i] = dial(t, space, p.address())
	}
	p.holdsConnections(len(clients))
	child := p.onlyChild()
	p.stopChild(child)
	want := stripesSum(size)
	results := make(chan string, len(clients))
	for _, c := range clients {
		go func() { results <- tallied(c, size) }()
	}
	eventually(t, "more pipes than a plain user may have large ones", func() error {
		if n := pipesOf(p.pid()); n <= 64 {
			return fmt.Errorf("%d pipes", n)
		}
		return nil
	})
	if err := syscall.Kill(child.pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for range clients {
		if got := <-results; got != want {
			t.Errorf("the server got %q, want %q", got, want)
		}
	}
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

// pipesOf counts the pipes that a process has open, by their read ends' names.
func pipesOf(pid int) int {
	names := map[string]bool{}
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, f := range files {
		if link, err := os.Readlink(f); err == nil && strings.HasPrefix(link, "pipe:") {
			names[link] = true
		}
	}
	return len(names)
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

// setNetwork writes a setting of one network.
func setNetwork(t *testing.T, where *space, name, value string) {
	t.Helper()
	var err error
	where.do(func() { err = os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0) })
	if err != nil {
		t.Fatal(err)
	}
}

// All source ports to the child are in TIME_WAIT. The client is held, told when
// its time is over, and served as soon as there is a port.
func TestLimits_PortsRunOut(t *testing.T) {
	t.Parallel()
	space, dest := newNetwork(t), "127.0.0.1:3000"
	setNetwork(t, space, "ip_local_port_range", "40000 40049")
	setNetwork(t, space, "tcp_tw_reuse", "0")
	const refused = "client reset: the child takes no connection"
	p := run(t, setup{
		space: space, bind: "127.0.0.1:4000", dest: dest, program: self, args: []string{"role", "echo", dest},
		flags: []string{"--start-timeout", "3s"}, allow: []string{refused},
	})
	served, held := 0, false
	for i := range 100 {
		c := dialFromIn(t, space, fmt.Sprintf("127.0.1.%d:0", i+1), p.address())
		_, err := ask(c, "hello")
		c.Close()
		if held = err != nil; held {
			if !wasReset(err) {
				t.Errorf("the client was told %v, want a reset", err)
			}
			break
		}
		served++
	}
	if !held {
		t.Fatalf("%d clients were served from 50 ports", served)
	}
	if e := p.expect(refused); !strings.Contains(e.text("err"), "cannot assign requested address") {
		t.Errorf("the log does not tell what is missing: %s", e.line)
	}
	t.Logf("%d clients were served before the ports ran out", served)
	waits := dialFromIn(t, space, "127.0.2.1:0", p.address())
	if _, err := io.WriteString(waits, "hello\n"); err != nil {
		t.Fatal(err)
	}
	p.holdsConnections(1)
	setNetwork(t, space, "tcp_tw_reuse", "1")
	if answer, err := readLine(waits); !strings.HasSuffix(answer, " hello") {
		t.Errorf("who waited got %q, %v", answer, err)
	}
}

// dialFromIn connects to a proxy in a network from an address of the client's choice.
func dialFromIn(t *testing.T, where *space, local, address string) (c net.Conn) {
	t.Helper()
	from, err := net.ResolveTCPAddr("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	where.do(func() { c, err = (&net.Dialer{LocalAddr: from}).DialContext(context.Background(), "tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * bound)); err != nil {
		t.Fatal(err)
	}
	return c
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
