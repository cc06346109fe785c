//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// begun is how many connections the kernel has led to the child.
func (p *tiproxy) begun() float64 {
	p.t.Helper()
	d, _ := p.statistics().attrs["direct"].(map[string]any)
	n, _ := d["begun"].(float64)
	return n
}

// ledTo waits until the kernel leads the clients that try makes.
func (p *tiproxy) ledTo(try func()) {
	p.t.Helper()
	before := p.begun()
	eventually(p.t, "clients are led to the child", func() error {
		try()
		if p.begun() == before {
			return fmt.Errorf("still %v", before)
		}
		return nil
	})
}

const directNginxConf = `
user root;
daemon off;
pid %[1]s/pid;
error_log stderr notice;
worker_processes 4;
events {}
http {
	access_log off;
	server {
		listen 127.0.0.1:%[2]s reuseport;
		root %[1]s/www;
	}
	client_body_temp_path %[1]s/tmp;
	proxy_temp_path %[1]s/tmp;
	fastcgi_temp_path %[1]s/tmp;
	uwsgi_temp_path %[1]s/tmp;
	scgi_temp_path %[1]s/tmp;
}
`

// Four workers with a socket each. While clients come and go, the master
// replaces them all, again and again: nobody may be refused.
func TestDirect_NginxWorkersAndReloads(t *testing.T) {
	needDirect(t)
	dir, port := sharedDir(t), freePort(t)
	if err := os.MkdirAll(filepath.Join(dir, "www"), 0o755); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "conf")
	write(t, conf, fmt.Appendf(nil, directNginxConf, dir, port))
	write(t, filepath.Join(dir, "www", "hello"), []byte("hello\n"))
	p := runDirect(t, setup{
		dest: "127.0.0.1:" + port, program: "nginx", flags: []string{"--idle", "500ms"},
		args: []string{"-p", dir, "-e", "stderr", "-c", conf},
	})
	url := "http://" + p.address() + "/hello"
	one := func() { mustClient(t, "", "curl", "-sS", url) }
	one()
	p.ledTo(one)
	for range 5 {
		pid := strings.TrimSpace(mustClient(t, "", "cat", filepath.Join(dir, "pid")))
		mustClient(t, "", "kill", "-HUP", pid)
		got := mustClient(t, "", "curl", "-sS", "-H", "Connection: close", "--parallel", "--parallel-max", "16", url+"?[1-200]")
		if n := strings.Count(got, "hello\n"); n != 200 {
			t.Errorf("%d of 200 answers while nginx reloads", n)
		}
	}
	p.ledTo(one)
	if n := p.log.count("starting"); n != 1 {
		t.Errorf("%d starts", n)
	}
	p.expect("closed")
	p.asleep()
	one() // and awake again
}

func TestDirect_Redis(t *testing.T) {
	port := freePort(t)
	p := runDirect(t, setup{
		dest: "127.0.0.1:" + port, program: "redis-server", flags: []string{"--idle", "300ms"},
		args: []string{"--port", port, "--bind", "127.0.0.1", "--dir", sharedDir(t), "--save", "3600 1"},
	})
	cli := func(words ...string) string {
		return strings.TrimSpace(mustClient(t, "", append([]string{"redis-cli", "-p", p.port()}, words...)...))
	}
	if got := cli("set", "key", "value"); got != "OK" {
		t.Fatalf("redis-cli woke a server that said %q", got)
	}
	p.ledTo(func() { cli("ping") })
	for _, keep := range []string{"1", "0"} { // 0: every request on a connection of its own
		bench := client(t, "", "redis-benchmark", "-p", p.port(), "-n", "4000", "-c", "50", "-q", "-k", keep, "-t", "ping_inline,set,get")
		if said := bench.stdout + bench.stderr; bench.status != 0 || strings.Contains(said, "rror") {
			t.Errorf("redis-benchmark -k %s: exit status %d\n%s", keep, bench.status, said)
		}
	}
	if n := p.begun(); n < 10000 {
		t.Errorf("only %v connections were led to the server", n)
	}
	p.expect("closed")
	p.asleep()
	if got := cli("get", "key"); got != "value" {
		t.Errorf("after the idle stop the key holds %q", got)
	}
}

// A server that changes its user, so that its socket is fetched from another's.
func TestDirect_MariaDB(t *testing.T) {
	needDirect(t)
	db := newMariaDB(t)
	port := freePort(t)
	p := runDirect(t, setup{
		dest: "127.0.0.1:" + port, program: "mariadbd", flags: []string{"--idle", "500ms"},
		args: db.args("--bind-address=127.0.0.1", "--port="+port),
	})
	mysql := []string{"mysql", "--no-defaults", "-h", "127.0.0.1", "-P", p.port(), "-u", "root", "-N", "--unbuffered"}
	query := func(sql string) string {
		return strings.TrimSpace(mustClient(t, "", append(mysql, "-e", sql)...))
	}
	query("CREATE DATABASE shop; CREATE TABLE shop.items (n INT PRIMARY KEY)")
	p.ledTo(func() { query("SELECT 1") })
	one, two := openSession(t, host(), mysql...), openSession(t, host(), mysql...)
	for i, s := range []*session{one, two} {
		s.say(fmt.Sprintf("INSERT INTO shop.items VALUES (%d); SELECT 'done';\n", i))
		s.hears("done")
	}
	one.close()
	<-time.After(time.Second) // twice the idle time: the other session keeps it awake
	two.say("SELECT COUNT(*) + 40 FROM shop.items;\n")
	two.hears("42\n")
	two.close()
	if e := p.expect("shutdown"); e.text("reason") != "idle" {
		t.Errorf("stopped for another reason: %s", e.line)
	}
	p.expect("closed")
	p.asleep()
	if got := query("SELECT COUNT(*) FROM shop.items"); got != "2" {
		t.Errorf("after the idle stop the table holds %q rows, want 2", got)
	}
	if strings.Contains(p.log.text(), "Starting crash recovery") {
		t.Error("the idle stop was a crash for the database")
	}
}

// Clients that were carried because they waited for the start, and clients that
// are led to the child, meet in one chat and keep it awake together.
func TestDirect_NcatBrokerOfMixedClients(t *testing.T) {
	port := freePort(t)
	p := runDirect(t, setup{
		dest: "127.0.0.1:" + port, program: "ncat", flags: []string{"--idle", "400ms"},
		args: []string{"-l", "-k", "-4", "--broker", "127.0.0.1", port},
	})
	carried := dial(t, host(), p.address())
	p.expect("opened")
	var led net.Conn
	p.ledTo(func() { led = dial(t, host(), p.address()) })
	for _, way := range [][2]net.Conn{{carried, led}, {led, carried}} {
		// A broker tells nobody what was said before it knew of him.
		eventually(t, "one hears the other", func() error {
			if _, err := fmt.Fprintln(way[0], "HELLO"); err != nil {
				return err
			}
			if err := way[1].SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
				return err
			}
			got, err := readLine(way[1])
			if err == nil && got != "HELLO" {
				err = fmt.Errorf("heard %q", got)
			}
			return err
		})
	}
	for _, leaves := range []net.Conn{carried, led} {
		<-time.After(800 * time.Millisecond)
		if n := p.log.count("shutdown"); n != 0 {
			t.Fatal("the broker was stopped under a client")
		}
		leaves.Close()
	}
	p.expect("shutdown")
	p.asleep()
}

// A grandchild that listens goes on while its parent is gone: nobody is led to
// what is being stopped.
func TestDirect_WrapperDiesBeforeItsServer(t *testing.T) {
	needDirect(t)
	dest := "127.0.0.1:" + freePort(t)
	p := runDirect(t, setup{
		dest: dest, program: "sh", args: []string{"-c", `"$@" & wait`, "sh", self, "role", "peer", dest},
		allow: []string{"closed"},
	})
	c := p.led(p.address())
	shell := p.running("dash")
	if len(shell) != 1 {
		shell = p.running("bash")
	}
	if len(shell) != 1 {
		t.Fatalf("tree: %v", p.tree())
	}
	if err := syscall.Kill(shell[0].pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a client of a server that is stopped hears something")
	}
	p.expect("closed")
	p.led(p.address()).Close()
}
