//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// flagged are flags for some ways to recognise readiness.
func flagged(ways ...string) []string {
	var flags []string
	for _, w := range ways {
		flags = append(flags, "--ready", w)
	}
	return flags
}

// notBefore checks that the log has nothing of msg until something happens, and
// something of it behind that.
func (p *tiproxy) notBefore(msg string, happens func()) {
	p.t.Helper()
	if p.log.until(300*time.Millisecond, func() bool { return p.log.count(msg) > 0 }) {
		p.t.Errorf("%q is in the log too early", msg)
	}
	happens()
	p.expect(msg)
}

// healthConf is nginx with a page that says 503 until there is a file.
const healthConf = `
user root;
daemon off;
pid %[1]s/pid;
error_log stderr notice;
worker_processes 1;
events {}
http {
	access_log %[1]s/access;
	server {
		listen 127.0.0.1:%[2]s;
		root %[1]s;
		location = /health {
			if (!-f %[1]s/up) { return 503; }
			return 302 http://192.0.2.1/nowhere;
		}
	}
	client_body_temp_path %[1]s/tmp;
	proxy_temp_path %[1]s/tmp;
	fastcgi_temp_path %[1]s/tmp;
	uwsgi_temp_path %[1]s/tmp;
	scgi_temp_path %[1]s/tmp;
}
`

// healthy is an nginx that is ready when its page says so. up makes it say so.
func healthy(t *testing.T, flags []string, s setup) (p *tiproxy, up func(), dir string) {
	t.Helper()
	needRoot(t, "nginx with workers")
	dir = sharedDir(t)
	port := freePort(t)
	conf := filepath.Join(dir, "conf")
	write(t, conf, fmt.Appendf(nil, healthConf, dir, port))
	write(t, filepath.Join(dir, "page"), []byte("hello\n"))
	s.dest, s.program, s.args = "127.0.0.1:"+port, "nginx", []string{"-p", dir, "-e", "stderr", "-c", conf}
	s.flags = append(flagged("http://127.0.0.1:"+port+"/health"), flags...)
	return run(t, s), func() { write(t, filepath.Join(dir, "up"), nil) }, dir
}

func TestReady_HTTP(t *testing.T) {
	t.Parallel()
	p, up, dir := healthy(t, []string{"--idle", "200ms"}, setup{})
	page := openSession(t, host(), "curl", "-sS", "http://"+p.address()+"/page")
	p.expect("starting")
	p.notBefore("opened", up)
	page.hears("hello\n")
	p.expect("closed")
	p.asleep()
	// The second life is asked anew, and once is enough.
	if got := mustClient(t, "", "curl", "-sS", "http://"+p.address()+"/page?[1-5]"); got != strings.Repeat("hello\n", 5) {
		t.Errorf("the second life answers %q", got)
	}
	log, err := os.ReadFile(filepath.Join(dir, "access"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(log), `"GET /health HTTP/1.1" 302`); n != 2 || !strings.Contains(string(log), "tiproxy-ready") {
		t.Errorf("%d good answers in two lives, want 2:\n%s", n, log)
	}
}

func TestReady_StartTimeoutSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	needRoot(t, "nginx with workers")
	echo := func(port string, more ...string) []string {
		return append([]string{"role", "echo", "127.0.0.1:" + port}, more...)
	}
	mute := echoAt(t) // listens, and answers no request
	for name, tt := range map[string]struct{ way, want string }{
		"http, nobody":  {"http://127.0.0.1:9/", "http://127.0.0.1:9/ does not answer: dial tcp 127.0.0.1:9: connect: connection refused"},
		"http, silent":  {"http://" + mute + "/", "http://" + mute + "/ does not answer within 1s: i/o timeout"},
		"exec, fails":   {`exec:sh -c "echo no response; exit 2"`, `exec:sh ended with exit status 2: "no response"`},
		"exec, hangs":   {`exec:sh -c "echo asking; sleep 1000 & sleep 1000"`, `exec:sh has not ended yet: "asking"`},
		"exec, no luck": {"exec:false", "exec:false ended with exit status 1"},
		"log":           {"log:^ready for [a-z]+$", `no complete line of its output matches "^ready for [a-z]+$" yet`},
		"notify":        {"notify", "no READY=1 has come over NOTIFY_SOCKET"},
		"dial and log":  {"log:x{3}", `no complete line of its output matches "x{3}" yet`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			flags := append(flagged(tt.way), "--start-timeout", "2500ms")
			if name == "dial and log" {
				flags = append(flags, flagged("dial")...)
			}
			p := run(t, setup{dest: "127.0.0.1:" + port, program: self, args: echo(port), flags: flags, allow: []string{"start failed"}})
			c := dial(t, host(), p.address())
			e := p.expect("start failed")
			if want := tt.want + ": start timeout"; e.text("err") != want {
				t.Errorf("err is %q, want %q", e.text("err"), want)
			}
			if _, err := readLine(c); !wasReset(err) {
				t.Errorf("the client that waited got %v, want a reset", err)
			}
			p.expect("closed")
			p.asleep()
		})
	}
}

// echoAt is the address of an echo server that is no child of any tiproxy.
func echoAt(t *testing.T) string {
	t.Helper()
	address := "127.0.0.1:" + freePort(t)
	l := listen(address)
	t.Cleanup(func() { l.Close() })
	return address
}

// A child that ends while it is asked has failed by its end, whatever is asked.
func TestReady_ChildEndsWhileItIsAsked(t *testing.T) {
	t.Parallel()
	for name, way := range map[string]string{
		"http": "http://" + echoAt(t) + "/", "exec": `exec:sh -c "sleep 1000 & exec sleep 1000"`, "log": "log:^never$", "notify": "notify",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			p := run(t, setup{
				dest: "127.0.0.1:" + port, program: self, args: []string{"role", "echo", "127.0.0.1:" + port},
				flags: flagged(way), allow: []string{"start failed"},
			})
			c := dial(t, host(), p.address())
			p.expect("starting")
			eventually(t, "the child listens", func() error {
				probe, err := tryDial(host(), "127.0.0.1:"+port)
				if err == nil {
					probe.Close()
				}
				return err
			})
			for _, child := range p.running(filepath.Base(self)) {
				_ = syscall.Kill(child.pid, syscall.SIGKILL)
			}
			if e := p.expect("start failed"); e.text("status") != "signal: killed" {
				t.Errorf("want the child's end: %s", e.line)
			}
			if _, err := readLine(c); !wasReset(err) {
				t.Errorf("the client that waited got %v, want a reset", err)
			}
			p.expect("closed")
			p.asleep()
		})
	}
}

// Neither tiproxy's end nor its sudden death leaves anything of a check.
func TestReady_NothingOfACheckIsLeft(t *testing.T) {
	t.Parallel()
	check := `exec:sh -c "setsid sleep 1001 & sleep 1001 & exec sleep 1001"`
	for _, how := range []string{"stopped", "stopped twice", "killed"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			p := run(t, setup{
				dest: "127.0.0.1:" + port, program: self, args: []string{"role", "echo", "127.0.0.1:" + port}, flags: flagged(check),
			})
			dial(t, host(), p.address())
			eventually(t, "the check runs", func() error {
				if n := len(p.running("sleep")); n < 3 {
					return fmt.Errorf("%d processes of the check", n)
				}
				return nil
			})
			switch how {
			case "killed":
				p.kill()
			case "stopped twice":
				p.signal(syscall.SIGTERM)
				fallthrough
			default:
				p.signal(syscall.SIGTERM)
				p.ends(bound)
			}
		})
	}
}

func TestReady_AllThatAreNamedMustHold(t *testing.T) {
	t.Parallel()
	dir, port := sharedDir(t), freePort(t)
	gate := func(name string) string { return filepath.Join(dir, name) }
	open := func(name string) func() { return func() { write(t, gate(name), nil) } }
	wait := func(name string) string { return "until test -e " + gate(name) + "; do sleep 0.02; done; " }
	script := self + " role echo 127.0.0.1:" + port + " & " + wait("log") + "echo it is time; " + wait("notify") + "systemd-notify --ready; wait"
	p := run(t, setup{
		dest: "127.0.0.1:" + port, program: "sh", args: []string{"-c", script}, dir: dir,
		env: []string{"TIPROXY_READY=listen\ndial\nlog:^it is time$\nnotify\nexec:test -e exec"}, flags: []string{"--stop-timeout", "5s"},
	})
	c := dial(t, host(), p.address())
	p.expect("starting")
	for _, name := range []string{"exec", "log"} {
		open(name)()
		if p.log.until(200*time.Millisecond, func() bool { return p.log.count("opened") > 0 }) {
			t.Fatalf("opened after %s alone", name)
		}
	}
	p.notBefore("opened", open("notify"))
	mustAsk(t, c, "hello")
}

// PostgreSQL listens before it can be used. With its own word for that, no client
// hears "the database system is starting up".
func TestReady_PostgresIsStarted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ how, way string }{
		{"setpriv", "exec:pg_isready -q -h 127.0.0.1 -p PORT"},
		{"--user", `exec:sh -c 'test "$(id -un)" = postgres && exec pg_isready -q -h 127.0.0.1 -p PORT'`},
		{"setpriv", "log:database system is ready to accept connections"},
		{"setpriv", "notify"},
		{"--user", "notify"},
	} {
		t.Run(tt.how+" "+tt.way, func(t *testing.T) {
			t.Parallel()
			db := newPostgres(t)
			p := run(t, db.setup(tt.how, "--idle", "100ms", "--ready", strings.ReplaceAll(tt.way, "PORT", db.port)))
			for range 3 {
				got := mustClient(t, "", "psql", "-XAtq", "-h", "127.0.0.1", "-p", p.port(), "-U", "postgres", "-c", "SELECT 6*7")
				if strings.TrimSpace(got) != "42" {
					t.Errorf("got %q", got)
				}
				p.expect("closed")
			}
			p.asleep()
		})
	}
}

// MariaDB changes its user and then says that it is ready, in its log and to a
// service manager.
func TestReady_MariaDB(t *testing.T) {
	t.Parallel()
	for name, way := range map[string]string{"log": "log:ready for connections", "notify": "notify"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, port := newMariaDB(t), freePort(t)
			p := run(t, setup{
				dest: "127.0.0.1:" + port, program: "mariadbd", flags: append(flagged(way), "--idle", "200ms"),
				args: db.args("--bind-address=127.0.0.1", "--port="+port),
			})
			for range 2 {
				got := mustClient(t, "", "mysql", "--no-defaults", "-h", "127.0.0.1", "-P", p.port(), "-u", "root", "-N", "-e", "SELECT 6*7")
				if strings.TrimSpace(got) != "42" {
					t.Errorf("got %q", got)
				}
				p.expect("closed")
				p.asleep()
			}
		})
	}
}

func TestReady_Redis(t *testing.T) {
	t.Parallel()
	for name, way := range map[string]string{
		"log":    "log:Ready to accept connections",
		"notify": "notify",
		"exec":   `exec:sh -c 'redis-cli -p PORT ping | grep -q PONG'`,
		"unix":   "exec:redis-cli -s PATH ping",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port, path := freePort(t), filepath.Join(sharedDir(t), "s")
			dest := "127.0.0.1:" + port
			if name == "unix" {
				dest = "unix:" + path
			}
			way = strings.NewReplacer("PORT", port, "PATH", path).Replace(way)
			p := run(t, setup{
				dest: dest, program: "redis-server", flags: append(flagged(way), "--idle", "200ms"),
				args: []string{"--port", port, "--unixsocket", path, "--save", "", "--supervised", "auto"},
			})
			for range 2 {
				if got := mustClient(t, "", "redis-cli", "-p", p.port(), "ping"); strings.TrimSpace(got) != "PONG" {
					t.Errorf("got %q", got)
				}
				p.expect("closed")
				p.asleep()
			}
		})
	}
}

// The sender of a notification is what counts: a stranger who knows the address
// does not make a child ready.
func TestReady_NotifyOfAStranger(t *testing.T) {
	t.Parallel()
	port, dir := freePort(t), sharedDir(t)
	script := "echo $NOTIFY_SOCKET > socket; until test -e go; do sleep 0.02; done & " + self + " role echo 127.0.0.1:" + port + " & wait %1; systemd-notify --status=going --ready; wait"
	p := run(t, setup{
		dest: "127.0.0.1:" + port, program: "bash", args: []string{"-c", script}, dir: dir, flags: append(flagged("notify"), "--log-level", "debug"),
	})
	c := dial(t, host(), p.address())
	var address string
	eventually(t, "the child has the address", func() error {
		text, err := os.ReadFile(filepath.Join(dir, "socket"))
		address = strings.TrimSpace(string(text))
		if err == nil && address == "" {
			err = fmt.Errorf("not written yet")
		}
		return err
	})
	stranger := exec.Command("systemd-notify", "--ready")
	stranger.Env = append(os.Environ(), "NOTIFY_SOCKET="+address)
	if err := host().start(stranger); err != nil {
		t.Fatal(err)
	}
	if err := wait(stranger); err != nil {
		t.Errorf("the stranger was not heard: %v", err)
	}
	p.notBefore("opened", func() { write(t, filepath.Join(dir, "go"), nil) })
	mustAsk(t, c, "hello")
	if !strings.Contains(p.log.text(), "outside the child's tree are ignored") || !strings.Contains(p.log.text(), `"status":"going"`) {
		t.Error("the log does not tell of the stranger and of the status")
	}
}
