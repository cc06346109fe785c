//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A server that counts failed handshakes sees none, however often it is started.
func TestReadiness_NoEmptyConnections(t *testing.T) {
	t.Parallel()
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{dest: dest, program: self, args: []string{"role", "counts", dest}, flags: []string{"--idle", "1ns"}})
	n := rounds(40, 1000)
	for range n {
		c := dial(t, host(), p.address())
		mustAsk(t, c, "hello")
		c.Close()
		p.expect("closed")
	}
	p.asleep()
	said := p.log.text()
	if got := strings.Count(said, "child got a real connection"); got != n {
		t.Errorf("%d connections for %d clients", got, n)
	}
	if got := strings.Count(said, "child got an empty connection"); got != 0 {
		t.Errorf("%d connections without a byte", got)
	}
	if got := p.log.count("starting"); got != n {
		t.Errorf("%d starts for %d clients", got, n)
	}
}

// A connection of somebody on this machine has the child's port as its own.
func TestReadiness_PortTakenByAnOutgoingConnection(t *testing.T) {
	t.Parallel()
	space, dest := newNetwork(t), "127.0.0.1:45000"
	outgoing := connectFrom(t, space, dest)
	p := run(t, setup{
		space: space, dest: dest, program: self, args: []string{"role", "echo", dest}, allow: []string{"start failed"},
	})
	if answer, err := askAfresh(t, space, p.address(), "hello"); !wasReset(err) {
		t.Errorf("the client got %q, %v; want a reset", answer, err)
	}
	e := p.expect("start failed")
	owner := fmt.Sprintf("process %d (", os.Getpid())
	for _, want := range []string{"address already in use", "outgoing connection", "ip_local_port_range", owner} {
		if !strings.Contains(e.line, want) {
			t.Errorf("the log does not say %q: %s", want, e.line)
		}
	}
	resetConn(outgoing)
	mustAsk(t, dial(t, space, p.address()), "hello")
}

// connectFrom makes a connection to some listener from a given local address.
func connectFrom(t *testing.T, where *space, local string) (c net.Conn) {
	t.Helper()
	from, err := net.ResolveTCPAddr("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	where.do(func() { l, err = net.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	where.do(func() {
		c, err = (&net.Dialer{LocalAddr: from}).DialContext(context.Background(), "tcp", l.Addr().String())
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// The port is open some time before the service is there, which greets its
// clients then. They speak when they were greeted: what has been sent to the
// child is never sent again.
func TestReadiness_ServerThatResetsAtFirst(t *testing.T) {
	t.Parallel()
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{dest: dest, program: self, args: []string{"role", "moody", dest, "500ms"}})
	answers := make(chan string, 10)
	for range cap(answers) {
		go func(c net.Conn) { answers <- greeted(c) }(dial(t, host(), p.address()))
	}
	for range cap(answers) {
		if got := <-answers; !strings.HasSuffix(got, " hello <nil>") {
			t.Errorf("a client got %q", got)
		}
	}
	if n := p.log.count("starting"); n != 1 {
		t.Errorf("%d starts", n)
	}
}

// greeted waits for a greeting, and tells the answer to what is said then.
func greeted(c net.Conn) string {
	if greeting, err := readLine(c); greeting != "welcome" {
		return fmt.Sprintf("%q for a greeting, %v", greeting, err)
	}
	answer, err := ask(c, "hello")
	return fmt.Sprint(answer, " ", err)
}

// The child dies with its first client in the backlog. The next one serves it.
func TestReadiness_DiesWithItsFirstClient(t *testing.T) {
	t.Parallel()
	dest, once := "127.0.0.1:"+freePort(t), filepath.Join(sharedDir(t), "once")
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "unlucky", dest, once},
		allow: []string{"closed"}, // a crash is warned of
	})
	mustAsk(t, dial(t, host(), p.address()), "hello")
	if n := p.log.count("starting"); n != 2 {
		t.Errorf("%d starts, want 2", n)
	}
	if e := p.expect("closed"); !strings.Contains(e.line, "exit status 4") {
		t.Errorf("the first child ended otherwise: %s", e.line)
	}
}

// A child that stands still answers nobody and refuses nobody. Who waits is
// served when it goes on, and a stop reaches it all the same.
func TestReadiness_StoppedChildKeepsItsClients(t *testing.T) {
	t.Parallel()
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "echo", dest},
		flags: []string{"--idle", "100ms", "--stop-timeout", "10m"},
	})
	first := dial(t, host(), p.address())
	mustAsk(t, first, "hello")
	child := p.onlyChild()
	p.stopChild(child)
	clients := make([]net.Conn, rounds(20, 500))
	for i := range clients {
		clients[i] = dial(t, host(), p.address())
		if _, err := fmt.Fprintln(clients[i], "hello"); err != nil {
			t.Fatal(err)
		}
	}
	p.holdsConnections(len(clients) + 1)
	if err := syscall.Kill(child.pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		if answer, err := readLine(c); answer != fmt.Sprint(child.pid, " hello") {
			t.Errorf("a client got %q, %v", answer, err)
		}
		c.Close()
	}
	p.holdsConnections(1)
	p.stopChild(child)
	resetConn(first)
	p.expect("shutdown")
	p.says("child got terminated")
	p.expect("closed")
	p.asleep()
}

// holdsConnections waits until n clients have the child.
func (p *tiproxy) holdsConnections(n int) {
	p.t.Helper()
	eventually(p.t, fmt.Sprint(n, " connections"), func() error {
		e := p.statistics()
		got, _ := e.attrs["connections"].(float64)
		if led, ok := e.attrs["direct"].(map[string]any); ok {
			more, _ := led["connections"].(float64)
			got += more
		}
		if got != float64(n) {
			return fmt.Errorf("%v connections", got)
		}
		return nil
	})
}

// stopChild makes a process stand still.
func (p *tiproxy) stopChild(child process) {
	p.t.Helper()
	if err := syscall.Kill(child.pid, syscall.SIGSTOP); err != nil {
		p.t.Fatal(err)
	}
	eventually(p.t, "the child stands still", func() error {
		if now, _ := readProcess(child.pid); now.state != 'T' {
			return fmt.Errorf("state %c", now.state)
		}
		return nil
	})
}

// withHosts runs tiproxy with an /etc/hosts of its own, which the test may write.
func withHosts(t *testing.T, hosts string) (file string, wrapper []string) {
	t.Helper()
	needRoot(t, "a mount namespace")
	file = filepath.Join(sharedDir(t), "hosts")
	writeHosts(t, file, hosts)
	return file, []string{"unshare", "--mount", "--", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, file}
}

func writeHosts(t *testing.T, file, hosts string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(hosts), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The child listens on one address only of the two that its name stands for.
func TestReadiness_NameWithTwoAddresses(t *testing.T) {
	t.Parallel()
	for _, on := range []string{"127.0.0.1", "[::1]"} {
		_, wrapper := withHosts(t, "127.0.0.1 twofold.test\n::1 twofold.test\n")
		port := freePort(t)
		p := run(t, setup{
			dest: "twofold.test:" + port, program: self, args: []string{"role", "where", on + ":" + port}, wrapper: wrapper,
		})
		if answer := mustAsk(t, dial(t, host(), p.address()), "hello"); answer != on+":"+port {
			t.Errorf("served at %q, want %s:%s", answer, on, port)
		}
	}
}

// The name gets another address while tiproxy runs. Go's resolver remembers a
// hosts file for five seconds, so that the change takes a while to be seen.
func TestReadiness_NameThatMoves(t *testing.T) {
	t.Parallel()
	hosts, wrapper := withHosts(t, "127.0.0.1 moving.test\n")
	port := freePort(t)
	p := run(t, setup{
		dest: "moving.test:" + port, program: self, wrapper: wrapper, flags: []string{"--idle", "1ms"},
		args: []string{"role", "where", "127.0.0.1:" + port + ",127.0.0.2:" + port},
	})
	place := func() string {
		c := dial(t, host(), p.address())
		defer c.Close()
		answer := mustAsk(t, c, "where")
		c.Close()
		p.expect("closed")
		return answer
	}
	if got := place(); got != "127.0.0.1:"+port {
		t.Fatalf("served at %s", got)
	}
	writeHosts(t, hosts, "127.0.0.2 moving.test\n")
	eventually(t, "the new address is used", func() error {
		if got := place(); got != "127.0.0.2:"+port {
			return fmt.Errorf("served at %s", got)
		}
		return nil
	})
}

// Two tiproxies were given the same port for their child.
func TestStranger_IsTheChildOfAnotherTiproxy(t *testing.T) {
	t.Parallel()
	dest := "127.0.0.1:" + freePort(t)
	s := setup{
		dest: dest, program: self, args: []string{"role", "echo", dest},
		flags: []string{"--idle", "10ms"}, allow: []string{"start failed"},
	}
	one, two := run(t, s), run(t, s)
	c := dial(t, host(), one.address())
	mustAsk(t, c, "hello")
	if answer, err := askAfresh(t, host(), two.address(), "hello"); !wasReset(err) {
		t.Errorf("a client of the second got %q, %v; want a reset", answer, err)
	}
	if e := two.expect("start failed"); !strings.Contains(e.line, fmt.Sprint(one.onlyChild().pid)) {
		t.Errorf("the second does not name the first one's child: %s", e.line)
	}
	c.Close()
	one.expect("closed")
	mustAsk(t, dial(t, host(), two.address()), "hello")
}
