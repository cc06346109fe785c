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

	"golang.org/x/sys/unix"
)

// Clients that are gone as soon as they have come leave no trace.
func TestClients_ResetRightAfterConnecting(t *testing.T) {
	t.Parallel()
	p := behind(t, "echo")
	for range rounds(2000, 10_000) {
		resetConn(dialOnce(t, p.address()))
	}
	mustAsk(t, dial(t, host(), p.address()), "hello")
	p.holdsConnections(1)
	if n := p.log.count("starting"); n > 1 {
		t.Errorf("%d starts", n)
	}
	// Those who asked for the statistics are the only ones to grow the log.
	if n := len(p.log.all()) - p.log.count("statistics"); n > 10 {
		t.Errorf("%d lines in the log", n)
	}
}

// dialOnce is dial for a connection that the test closes itself.
func dialOnce(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := tryDial(host(), address)
	if err != nil {
		t.Fatalf("connect to tiproxy: %v", err)
	}
	return c
}

// Clients that are sent much and read nothing cost a bounded amount of memory,
// and others do not notice them.
func TestClients_WhoNeverReadHoldUpNobody(t *testing.T) {
	t.Parallel()
	p := behind(t, "floods")
	mustAsk(t, dial(t, host(), p.address()), "hello")
	before := readResources(t, p.pid())
	deaf := make([]net.Conn, rounds(50, 500))
	for i := range deaf {
		deaf[i] = dial(t, host(), p.address())
		setOption(t, deaf[i].(*net.TCPConn), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
	}
	p.holdsConnections(1 + len(deaf))
	eventually(t, "each of them is sent something", func() error {
		for _, c := range deaf {
			if unreadBytes(t, c.(*net.TCPConn)) == 0 {
				return fmt.Errorf("one has got nothing yet")
			}
		}
		return nil
	})
	c := dial(t, host(), p.address())
	for range 1000 {
		mustAsk(t, c, "hello")
	}
	after := readResources(t, p.pid())
	per := float64(after.rssKiB-before.rssKiB) / float64(len(deaf))
	t.Logf("%.0f KiB for each of %d that do not read", per, len(deaf))
	if per > 1024 { // the race detector makes several of one
		t.Errorf("%.0f KiB for each that does not read", per)
	}
	for _, c := range deaf {
		resetConn(c)
	}
}

func unreadBytes(t *testing.T, c syscall.Conn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if ctl := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }); ctl != nil || err != nil {
		t.Fatal(ctl, err)
	}
	return n
}

// The name of a client's own socket holds a line break, a line that looks like
// the log's, and what terminals obey.
func TestLog_ClientCannotForgeLines(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"json", "text", "terminal"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			dir, dest := sharedDir(t), "127.0.0.1:"+freePort(t)
			bind := "unix:" + filepath.Join(dir, "bind")
			flags := []string{"--log-level", "debug", "--log-format", "text"}
			if format == "json" {
				flags[3] = "json"
			}
			p := launch(t, setup{
				bind: bind, dest: dest, program: self, args: []string{"role", "echo", dest}, flags: flags,
				terminal: format == "terminal", env: []string{"NO_COLOR=1"},
			})
			p.says("listening")
			forged := filepath.Join(dir, "x\n{\"time\":1,\"msg\":\"forged\"}\nmsg=forged\x1b[2J\u202e")
			c, err := (&net.Dialer{LocalAddr: &net.UnixAddr{Net: "unix", Name: forged}}).Dial("unix", strings.TrimPrefix(bind, "unix:"))
			if err != nil {
				t.Fatal(err)
			}
			mustAsk(t, c, "hello")
			c.Close()
			p.says("reason") // of the connection's end
			p.signal(syscall.SIGTERM)
			p.ends(prompt)
			said := p.log.text()
			if !strings.Contains(said, "forged") {
				t.Fatal("the client's name is not in the log: nothing is shown")
			}
			for _, line := range strings.Split(said, "\n") {
				// U+202E, which turns the text around, is plain text to JSON.
				hidden := strings.Contains(line, "\x1b") || format != "json" && strings.Contains(line, "\u202e")
				if hidden || strings.HasPrefix(line, "msg=forged") || strings.HasPrefix(line, `{"time":1`) {
					t.Errorf("a line of the client's making: %q", line)
				}
			}
		})
	}
}

// Secrets that are handed to the child do not get into the log, whatever
// happens to it.
func TestLog_SecretsStayOut(t *testing.T) {
	t.Parallel()
	const canary = "canary-7a1f"
	dest, work := "127.0.0.1:"+freePort(t), filepath.Join(sharedDir(t), "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "echo", dest, "--password=" + canary},
		flags: []string{"--env", "PASSWORD=" + canary, "--workdir", work},
		env:   []string{"TIPROXY_ENV=TOKEN=" + canary, "TOKEN=" + canary},
		allow: []string{"closed", "start failed"},
	})
	mustAsk(t, dial(t, host(), p.address()), canary)
	child := p.onlyChild()
	if !child.hasEnv("PASSWORD=" + canary) {
		t.Fatal("the child has no secret: nothing is shown")
	}
	if err := syscall.Kill(child.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.expect("closed")
	if err := os.Remove(work); err != nil {
		t.Fatal(err)
	}
	if answer, err := askAfresh(t, host(), p.address(), canary); !wasReset(err) {
		t.Errorf("the client got %q, %v; want a reset", answer, err)
	}
	p.expect("start failed")
	p.statistics()
	p.signal(syscall.SIGTERM)
	p.ends(prompt)
	p.log.untilEnd(prompt)
	if strings.Contains(p.log.text(), canary) {
		t.Errorf("the log holds the secret:\n%s", p.log.text())
	}
}

// The admin socket is closed to others from its first moment, whatever the umask.
func TestAdmin_OtherUsersAreRefused(t *testing.T) {
	t.Parallel()
	needRoot(t, "becoming somebody else")
	socket, dest := filepath.Join(sharedDir(t), "admin"), "127.0.0.1:"+freePort(t)
	run(t, setup{
		dest: dest, program: self, args: []string{"role", "echo", dest}, flags: []string{"--admin", "unix:" + socket},
		wrapper: []string{"sh", "-c", `umask 0; exec "$@"`, "sh"},
	})
	info, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("mode %o, want 600", mode)
	}
	mustClient(t, "", binary, "healthcheck", "--admin", "unix:"+socket)
	other := append(append([]string{"setpriv"}, asNobody...), binary, "healthcheck", "--admin", "unix:"+socket)
	if r := client(t, "", other...); r.status == 0 {
		t.Errorf("another user was told: %s", r.stdout)
	}
}

// What --bind means by an address is what its clients can reach.
func TestBind_AddressForms(t *testing.T) {
	t.Parallel()
	four, six := "127.0.0.1:4000", "[::1]:4000"
	for bind, served := range map[string][]string{
		":4000":                   {four, six},
		"[::]:4000":               {four, six},
		"0.0.0.0:4000":            {four},
		"127.0.0.1:4000":          {four},
		"[::ffff:127.0.0.1]:4000": {four},
		"[::1]:4000":              {six},
		"[::1%lo]:4000":           {six},
	} {
		for _, dest := range []string{"127.0.0.1:3000", "[::1]:3000", "[::ffff:127.0.0.1]:3000"} {
			t.Run(bind+" to "+dest, func(t *testing.T) {
				t.Parallel()
				space := newNetwork(t)
				p := run(t, setup{space: space, bind: bind, dest: dest, program: self, args: []string{"role", "echo", dest}})
				for _, at := range []string{four, six} {
					c, err := tryDial(space, at)
					if wanted := strings.Contains(strings.Join(served, " "), at); wanted != (err == nil) {
						t.Errorf("%s: %v, want it served: %v", at, err, wanted)
					}
					if err == nil {
						mustAsk(t, c, "hello")
						c.Close()
					}
				}
				p.signal(syscall.SIGTERM)
				p.ends(prompt)
			})
		}
	}
}

// Somebody has put a symbolic link where tiproxy is to make its socket.
func TestBind_SymbolicLinkIsNotFollowed(t *testing.T) {
	t.Parallel()
	dir := sharedDir(t)
	precious := filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"to-a-file": precious, "to-nothing": filepath.Join(dir, "made")} {
		link = filepath.Join(dir, link)
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
		for _, flags := range [][]string{{"--bind", "unix:" + link}, {"--bind", "127.0.0.1:0", "--admin", "unix:" + link}} {
			line := append([]string{binary, "--dest", "127.0.0.1:3000", "--exec", "cat"}, flags...)
			p := launch(t, setup{line: line, status: 1})
			p.ends(prompt)
			if target, err := os.Readlink(link); target != to {
				t.Errorf("%v: the link leads to %q now, %v", flags, target, err)
			}
		}
	}
	if text, err := os.ReadFile(precious); string(text) != "precious" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "made")); err == nil {
		t.Error("a socket was made behind the link")
	}
}
