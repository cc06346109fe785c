//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// dialFrom connects from an address of its own, which loopback has many of.
func dialFrom(t *testing.T, ip, address string) net.Conn {
	t.Helper()
	c, err := tryDialFrom(t, ip, address)
	if err != nil {
		t.Fatalf("connect to tiproxy from %s: %v", ip, err)
	}
	return c
}

func tryDialFrom(t *testing.T, ip, address string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: bound}
	c, err := d.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return c, c.SetDeadline(time.Now().Add(2 * bound))
}

// askFrom connects, says a line and reads one back. A reset may be found at
// any of these steps.
func askFrom(t *testing.T, ip, address string) (net.Conn, error) {
	t.Helper()
	c, err := tryDialFrom(t, ip, address)
	if err == nil {
		_, err = ask(c, "hello")
	}
	return c, err
}

func newEcho(t *testing.T, s setup) *tiproxy {
	t.Helper()
	s.dest = "127.0.0.1:" + freePort(t)
	s.program, s.args = self, []string{"role", "echo", s.dest}
	return run(t, s)
}

func TestControls_TheDeniedNeverWakeTheChild(t *testing.T) {
	t.Parallel()
	p := newEcho(t, setup{
		flags: []string{"--allow", "127.0.0.0/24", "--deny", "127.0.0.66,10.0.0.0/8"},
		allow: []string{"client refused"},
	})
	for _, ip := range []string{"127.0.0.66", "127.0.1.1"} {
		for range 20 {
			if _, err := askFrom(t, ip, p.address()); !wasReset(err) {
				t.Errorf("a client from %s: %v, want a reset", ip, err)
			}
		}
	}
	if n := p.log.count("starting"); n != 0 {
		t.Errorf("%d starts by clients who may not connect", n)
	}
	if n := p.log.count("client refused"); n != 2 {
		t.Errorf("%d lines about refused clients, want one for each of 2 sources", n)
	}
	mustAsk(t, dialFrom(t, "127.0.0.1", p.address()), "hello")
}

// A port scan, connect and go or connect and wait, leaves the child asleep.
func TestControls_ScannersDoNotWakeWhatWaitsForData(t *testing.T) {
	t.Parallel()
	p := newEcho(t, setup{flags: []string{"--wake-on", "data"}})
	mustClient(t, "", "nc", "-z", "127.0.0.1", p.port())
	silent := dial(t, host(), p.address())
	for range 200 {
		c := dial(t, host(), p.address())
		if err := c.(*net.TCPConn).SetLinger(0); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	client := dial(t, host(), p.address())
	if n := p.log.count("starting"); n != 0 {
		t.Errorf("%d starts though nobody has said anything", n)
	}
	mustAsk(t, client, "hello")
	mustAsk(t, silent, "at last")
}

// A network that starts the child too often waits; nothing fails for good, and
// others are served meanwhile.
func TestControls_WakeRate(t *testing.T) {
	t.Parallel()
	p := newEcho(t, setup{
		flags: []string{"--idle", "20ms", "--wake-rate", "2/3s"},
		allow: []string{"wake held back"},
	})
	began := time.Now()
	for range 5 {
		c := dialFrom(t, "127.0.0.1", p.address())
		mustAsk(t, c, "hello")
		c.Close()
		p.expect("closed")
	}
	// The third waits for the first to be 3 s old, the fifth for the third.
	if took := time.Since(began); took < 6*time.Second {
		t.Errorf("5 starts in %v, want at most 2 in any 3 s", took)
	}
	if n := p.log.count("wake held back"); n != 1 {
		t.Errorf("%d lines about that, want 1 a minute", n)
	}
	other := dialFrom(t, "127.0.1.1", p.address())
	mustAsk(t, other, "hello")
}

func TestControls_MinUptime(t *testing.T) {
	t.Parallel()
	p := newEcho(t, setup{flags: []string{"--idle", "10ms", "--min-uptime", "2s"}})
	began := time.Now()
	for range 5 {
		c := dial(t, host(), p.address())
		mustAsk(t, c, "hello")
		c.Close()
		<-time.After(50 * time.Millisecond)
	}
	p.expect("closed")
	if took, starts := time.Since(began), p.log.count("starting"); took < 2*time.Second || starts != 1 {
		t.Errorf("closed after %v and %d starts, want one start that stays 2s", took, starts)
	}
}

// flood opens connections from one address until it is reset.
func flood(t *testing.T, p *tiproxy, ip string, n int) (open []net.Conn, refused int) {
	t.Helper()
	for range n {
		switch c, err := askFrom(t, ip, p.address()); {
		case err == nil:
			open = append(open, c)
		case wasReset(err):
			refused++
		default:
			t.Fatalf("a client of the flood: %v", err)
		}
	}
	return open, refused
}

// An honest client is served while one address floods, first come first served.
func TestControls_FloodFromOneSource(t *testing.T) {
	t.Parallel()
	p := newEcho(t, setup{
		flags: []string{"--max-per-source", "5", "--max-connections", "20"},
		allow: []string{"client refused"},
	})
	open, refused := flood(t, p, "127.0.0.66", 300)
	if len(open) != 5 || refused != 295 {
		t.Errorf("%d connections of the flood were served, %d refused; want 5, 295", len(open), refused)
	}
	mustAsk(t, dialFrom(t, "127.0.0.1", p.address()), "hello")
	open[0].Close()
	eventually(t, "the place is free again", func() error {
		_, err := askFrom(t, "127.0.0.66", p.address())
		return err
	})
	if n := p.log.count("client refused"); n != 1 {
		t.Errorf("%d lines for one flood", n)
	}
}

// Those who wait beyond the limit are in the kernel's backlog, and are served.
func TestControls_MaxWaiting(t *testing.T) {
	t.Parallel()
	p := newEcho(t, setup{flags: []string{"--max-waiting", "3"}})
	results := make(chan error)
	const crowd = 50
	for range crowd {
		c := dial(t, host(), p.address())
		go func() {
			_, err := ask(c, "hello")
			results <- err
		}()
	}
	for range crowd {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if e := p.expect("starting"); e.text("waiting") == "" {
		t.Errorf("line: %s", e.line)
	}
}

// A client that holds its connection open lets the server sleep. It finds the
// connection ended and makes a new one, as connection pools do.
func TestControls_QuietSessionsLetRedisSleep(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"close", "ignore"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			p := run(t, setup{
				dest: "127.0.0.1:" + port, program: "redis-server",
				flags: []string{"--idle", "300ms", "--quiet", "500ms", "--quiet-policy", policy},
				args:  []string{"--port", port, "--bind", "127.0.0.1", "--dir", sharedDir(t), "--save", "3600 1"},
			})
			s := openSession(t, host(), "redis-cli", "-p", p.port())
			s.say("set key first\nget key\n")
			s.hears("first")
			for range 2 {
				if e := p.expect("shutdown"); e.text("reason") != "idle" {
					t.Errorf("%s", e.line)
				}
				p.expect("closed")
				p.asleep()
				s.say("get key\nget key\n") // the first one may be the one to notice
				p.expect("opened")
			}
			eventually(t, "the session is answered after its connection was lost", func() error {
				if n := strings.Count(s.stdout.text(), "first"); n < 3 {
					return fmt.Errorf("%d answers: %q", n, s.stdout.text())
				}
				return nil
			})
		})
	}
}

// A session that holds its connection open lets the database sleep, and the
// next client wakes it.
func TestControls_QuietSessionLetsMariaDBSleep(t *testing.T) {
	t.Parallel()
	db := newMariaDB(t)
	port := freePort(t)
	p := run(t, setup{
		dest: "127.0.0.1:" + port, program: "mariadbd",
		flags: []string{"--idle", "300ms", "--quiet", "700ms", "--quiet-policy", "ignore"},
		args:  db.args("--bind-address=127.0.0.1", "--port="+port),
	})
	mysql := []string{"mysql", "--no-defaults", "-h", "127.0.0.1", "-P", p.port(), "-u", "root", "-N", "--unbuffered"}
	s := openSession(t, host(), mysql...)
	s.say("SELECT CONCAT('fir', 'st');\n")
	s.hears("first")
	p.expect("closed")
	p.asleep()
	if got := mustClient(t, "", append(mysql, "-e", "SELECT 'second'")...); got != "second\n" {
		t.Errorf("got %q", got)
	}
	s.say("SELECT 1;\n")
	if status := s.ends(); status == 0 {
		t.Error("the quiet session has not noticed that its server is gone")
	}
}

// By default a quiet connection keeps the child awake, also with --quiet alone.
func TestControls_QuietIsKeptByDefault(t *testing.T) {
	t.Parallel()
	p := newEcho(t, setup{
		flags: []string{"--idle", "50ms", "--quiet", "50ms"},
		allow: []string{"--quiet changes nothing as long as --quiet-policy is keep"},
	})
	c := dial(t, host(), p.address())
	first := mustAsk(t, c, "hello")
	<-time.After(500 * time.Millisecond)
	if again := mustAsk(t, c, "hello"); again != first {
		t.Errorf("%q, then %q: another child", first, again)
	}
}

// A transfer that takes long is not quiet, nor is a reader that is slow.
func TestControls_QuietSparesWhoIsBusy(t *testing.T) {
	t.Parallel()
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "tally", dest},
		flags: []string{"--quiet", "300ms", "--quiet-policy", "close"},
	})
	c := dial(t, host(), p.address())
	for range 10 {
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Fatal(err)
		}
		<-time.After(100 * time.Millisecond)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := readLine(c); err != nil || !strings.HasPrefix(answer, "10 ") {
		t.Errorf("got %q, %v", answer, err)
	}
}

// nginxBehindProxy tells its client's address, which it learns by the PROXY
// protocol only.
const nginxBehindProxy = `
user root;
daemon off;
pid %[1]s/pid;
error_log stderr error;
events {}
http {
	access_log off;
	server {
		listen 127.0.0.1:%[2]s proxy_protocol;
		location / { return 200 "$proxy_protocol_addr to $proxy_protocol_server_port\n"; }
	}
	client_body_temp_path %[1]s/tmp;
	proxy_temp_path %[1]s/tmp;
	fastcgi_temp_path %[1]s/tmp;
	uwsgi_temp_path %[1]s/tmp;
	scgi_temp_path %[1]s/tmp;
}
`

func newNginxBehindProxy(t *testing.T, flags ...string) *tiproxy {
	t.Helper()
	needRoot(t, "nginx with workers")
	dir, port := sharedDir(t), freePort(t)
	conf := filepath.Join(dir, "conf")
	write(t, conf, fmt.Appendf(nil, nginxBehindProxy, dir, port))
	return run(t, setup{
		dest: "127.0.0.1:" + port, program: "nginx", flags: flags,
		args: []string{"-p", dir, "-e", "stderr", "-c", conf},
	})
}

func TestControls_NginxLearnsItsClientsAddress(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"v1", "v2"} {
		p := newNginxBehindProxy(t, "--proxy-protocol", version)
		want := "127.0.0.42 to " + p.port() + "\n"
		url := "http://" + p.address() + "/"
		if got := mustClient(t, "", "curl", "-sS", "--interface", "127.0.0.42", url, url); got != want+want {
			t.Errorf("%s: nginx sees %q, want %q", version, got, want)
		}
	}
}

const haproxyConf = `
global
	maxconn 100
defaults
	mode tcp
	timeout connect 20s
	timeout client 1m
	timeout server 1m
listen front
	bind 127.0.0.1:%[1]s
	server tiproxy %[2]s %[3]s
`

// Behind HAProxy the client is whoever HAProxy says, for nginx as for --deny.
func TestControls_ClientsOfHAProxyKeepTheirAddress(t *testing.T) {
	t.Parallel()
	for _, send := range []string{"send-proxy", "send-proxy-v2"} {
		p := newNginxBehindProxy(t, "--proxy-protocol", "v2", "--accept-proxy-protocol", "127.0.0.1", "--deny", "127.0.0.66")
		p.setup.allow = []string{"client refused"}
		front := freePort(t)
		conf := filepath.Join(sharedDir(t), "haproxy.cfg")
		write(t, conf, fmt.Appendf(nil, haproxyConf, front, p.address(), send))
		startServer(t, front, "haproxy", "-db", "-f", conf)
		url := "http://127.0.0.1:" + front + "/"
		if r := client(t, "", "curl", "-sS", "--interface", "127.0.0.66", url); r.status == 0 {
			t.Errorf("%s: a denied client behind HAProxy was answered: %q", send, r.stdout)
		}
		if n := p.log.count("starting"); n != 0 {
			t.Errorf("%s: a denied client behind HAProxy has woken the child", send)
		}
		if got, want := mustClient(t, "", "curl", "-sS", "--interface", "127.0.0.42", url), "127.0.0.42 to "+front+"\n"; got != want {
			t.Errorf("%s: nginx sees %q, want %q", send, got, want)
		}
	}
}

// startServer runs a server that is no child of tiproxy's until the test ends,
// and waits until it listens.
func startServer(t *testing.T, port string, line ...string) {
	t.Helper()
	cmd := exec.Command(line[0], line[1:]...)
	if err := host().start(cmd); err != nil {
		t.Fatalf("start %v: %v", line, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = wait(cmd) // it was killed
	})
	eventually(t, line[0]+" listens", func() error { return listens(port) })
}

// listens looks for a listener without connecting to it, which would wake what
// is behind it. See proc_net_tcp(5): the local address is the second field, the
// state the fourth, 0A is LISTEN.
func listens(port string) error {
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	// Not /proc/net, which is that of the process's first thread: another test's
	// network may be made there.
	table, err := os.ReadFile("/proc/thread-self/net/tcp")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if strings.HasSuffix(f[1], fmt.Sprintf(":%04X", n)) && f[3] == "0A" {
			return nil
		}
	}
	return fmt.Errorf("nobody listens on port %s", port)
}

// MariaDB sees who its client is, as its accounts and limits need it.
func TestControls_MariaDBLearnsItsClientsAddress(t *testing.T) {
	t.Parallel()
	db := newMariaDB(t)
	port := freePort(t)
	p := run(t, setup{
		dest: "127.0.0.1:" + port, program: "mariadbd", flags: []string{"--proxy-protocol", "v1"},
		args: db.args("--bind-address=127.0.0.1", "--port="+port, "--proxy-protocol-networks=127.0.0.1", "--skip-name-resolve", "--init-file="+grants(t)),
	})
	// The client cannot choose its own address, socat can.
	from := freePort(t)
	startServer(t, from, "socat", "TCP-LISTEN:"+from+",bind=127.0.0.1,fork", "TCP:"+p.address()+",bind=127.0.0.42")
	got := mustClient(t, "", "mysql", "--no-defaults", "-h", "127.0.0.1", "-P", from, "-u", "guest", "-N", "-e", "SELECT USER()")
	if got != "guest@127.0.0.42\n" {
		t.Errorf("MariaDB sees %q", got)
	}
}

// grants is a file with which an account is made that is good from one address
// only.
func grants(t *testing.T) string {
	t.Helper()
	path := filepath.Join(sharedDir(t), "grants.sql")
	write(t, path, []byte("CREATE USER IF NOT EXISTS guest@127.0.0.42;\n"))
	return path
}

// A header that a client forges is nothing but its first bytes.
func TestControls_ForgedHeaderIsNotBelieved(t *testing.T) {
	t.Parallel()
	const forged = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r"
	p := newEcho(t, setup{flags: []string{"--accept-proxy-protocol", "127.0.0.9", "--deny", "192.0.2.0/24"}, allow: []string{"client refused"}})
	if got := mustAsk(t, dialFrom(t, "127.0.0.1", p.address()), forged); !strings.HasSuffix(got, "192.0.2.2 1 2") {
		t.Errorf("the child got %q", got)
	}
	// From the one who is believed the same is a header, whose client is denied,
	c := dialFrom(t, "127.0.0.9", p.address())
	if answer, err := ask(c, forged); !wasReset(err) {
		t.Errorf("got %q, %v; want a reset", answer, err)
	}
	// and without one nobody knows who it is.
	c = dialFrom(t, "127.0.0.9", p.address())
	if answer, err := ask(c, "GET / HTTP/1.0"); !wasReset(err) && !errors.Is(err, io.EOF) {
		t.Errorf("got %q, %v; want a reset", answer, err)
	}
	if e := p.expect("client refused"); e.text("source") != "192.0.2.1" {
		t.Errorf("the log does not name the client that was denied: %s", e.line)
	}
}
