//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func init() { faultRoles["heir"] = heir }

// heir is a server that takes its clients from the socket it was handed, answers
// each line with the line, "who am I" with the addresses of both ends, and
// finishes with those it has taken when it is told to end. It dies of the
// command "die", and at once if its FILE exists. It may be told to be "mute", which
// takes nobody and does not end, or to shut "all" down in the end, the listener, too.
func heir(words []string) {
	how := strings.Join(words[1:], " ")
	if os.Getenv("LISTEN_FDS") != "1" || os.Getenv("LISTEN_PID") != fmt.Sprint(os.Getpid()) || os.Getenv("LISTEN_FDNAMES") == "" {
		fmt.Fprintln(os.Stderr, "child was handed nothing: ", os.Environ())
		os.Exit(4)
	}
	if _, err := os.Stat(words[0]); err == nil {
		fmt.Fprintln(os.Stderr, "child cannot live")
		os.Exit(3)
	}
	file := os.NewFile(3, "listener")
	l, err := net.FileListener(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	file.Close()
	if how == "mute" {
		signal.Ignore(syscall.SIGTERM)
		fmt.Fprintln(os.Stderr, "child is mute")
		select {}
	}
	stop := make(chan os.Signal, 1)
	signal.Reset()
	signal.Notify(stop, syscall.SIGTERM)
	var busy sync.WaitGroup
	var over atomic.Bool
	go func() {
		<-stop
		over.Store(true)
		if how == "all" {
			shutDown(l)
		}
		l.Close()
	}()
	for !over.Load() {
		c, err := l.Accept()
		if err != nil {
			continue
		}
		busy.Go(func() { answer(c, heirReply(c)) })
	}
	busy.Wait()
	os.Exit(0)
}

// shutDown ends a listener for everybody who has it.
func shutDown(l net.Listener) {
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) })
	}
}

func heirReply(c net.Conn) func(string) string {
	return func(line string) string {
		switch line {
		case "who am I":
			return fmt.Sprint(c.RemoteAddr(), " ", c.LocalAddr())
		case "die":
			os.Exit(5)
		}
		return line
	}
}

// runHeir runs a tiproxy whose child inherits the listener. The child cannot
// live while the file exists.
func runHeir(t *testing.T, s setup, how ...string) (p *tiproxy, file string) {
	t.Helper()
	file = filepath.Join(sharedDir(t), "ill")
	s.program, s.args = self, append([]string{"role", "heir", file}, how...)
	s.flags = append([]string{"--path", "inherit"}, s.flags...)
	return run(t, s), file
}

func TestInherit_ChildTakesItsClientsItself(t *testing.T) {
	t.Parallel()
	for _, bind := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		t.Run(bind, func(t *testing.T) {
			t.Parallel()
			p, _ := runHeir(t, setup{bind: bind, flags: []string{"--idle", "300ms"}})
			host4 := "127.0.0.1"
			if strings.HasPrefix(bind, "[") {
				host4 = "::1"
			}
			for life := range 3 {
				var clients []net.Conn
				for range 5 {
					c := dial(t, host(), net.JoinHostPort(host4, p.port()))
					clients = append(clients, c)
					if got, want := mustAsk(t, c, "who am I"), fmt.Sprint(c.LocalAddr(), " ", c.RemoteAddr()); got != want {
						t.Errorf("life %d: the child sees %s, want %s", life+1, got, want)
					}
				}
				if e := p.expect("starting"); e.text("life") != fmt.Sprint(life+1) {
					t.Errorf("another life: %s", e.line)
				}
				p.expect("opened")
				if got := p.statistics().attrs["direct"].(map[string]any)["connections"]; got != 5.0 {
					t.Errorf("the statistics tell of %v connections", got)
				}
				for range 15 { // several idle times
					mustAsk(t, clients[0], "still here")
					<-time.After(50 * time.Millisecond)
				}
				for _, c := range clients {
					c.Close()
				}
				if e := p.expect("shutdown"); e.text("reason") != "idle" || e.text("life") != fmt.Sprint(life+1) {
					t.Errorf("life %d ends: %s", life+1, e.line)
				}
				p.asleep()
			}
		})
	}
}

// A plain user can have it: that is what it is for.
func TestInherit_NeedsNoRights(t *testing.T) {
	t.Parallel()
	needRoot(t, "another user")
	p, _ := runHeir(t, setup{wrapper: append([]string{"setpriv"}, asNobody...), flags: []string{"--idle", "500ms"}})
	c := dial(t, host(), p.address())
	mustAsk(t, c, "hello")
	c.Close()
	if e := p.expect("shutdown"); e.text("reason") != "idle" {
		t.Errorf("ends: %s", e.line)
	}
	p.asleep()
	mustAsk(t, dial(t, host(), p.address()), "hello again")
}

// Who waited for a start that failed is told, and who comes then waits for the
// next one.
func TestInherit_FailedStartIsTold(t *testing.T) {
	t.Parallel()
	p, ill := runHeir(t, setup{allow: []string{"start failed"}})
	if err := os.WriteFile(ill, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the third start is held back
		if _, err := ask(dial(t, host(), p.address()), "hello"); !wasReset(err) {
			t.Errorf("a client hears %v, want a reset", err)
		}
		e := p.expect("start failed")
		if !strings.Contains(e.line, "child cannot live") {
			t.Errorf("its last words are missing: %s", e.line)
		}
	}
	if err := os.Remove(ill); err != nil {
		t.Fatal(err)
	}
	mustAsk(t, dial(t, host(), p.address()), "hello")
}

// Whom a child has not taken when it dies is served by the next one.
func TestInherit_QueueOutlivesTheChild(t *testing.T) {
	t.Parallel()
	p, _ := runHeir(t, setup{allow: []string{"closed"}})
	first := dial(t, host(), p.address())
	mustAsk(t, first, "hello")
	child := p.onlyChild()
	p.stopChild(child) // until then it may take one more
	answers := make(chan error, 10)
	for range cap(answers) {
		c := dial(t, host(), p.address())
		go func() {
			_, err := ask(c, "are you there")
			answers <- err
		}()
	}
	if err := syscall.Kill(child.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range cap(answers) {
		if err := <-answers; err != nil {
			t.Errorf("a client that waited in the queue: %v", err)
		}
	}
	if _, err := first.Read(make([]byte, 1)); err == nil {
		t.Error("a client of a killed child hears something")
	}
}

// A child that shuts the listener down takes it from tiproxy as well, which then
// listens again: nobody is started for that, and the next client is served.
func TestInherit_ChildShutsTheListenerDown(t *testing.T) {
	t.Parallel()
	p, _ := runHeir(t, setup{flags: []string{"--idle", "100ms"}}, "all")
	for life := range 3 {
		var c net.Conn
		eventually(t, "the listener is back", func() (err error) {
			c, err = net.DialTimeout("tcp", p.address(), bound)
			return err
		})
		mustAsk(t, c, "hello")
		c.Close()
		eventuallyAsleep(p)
		if n := p.log.count("starting"); n != life+1 {
			t.Fatalf("%d starts for %d clients", n, life+1)
		}
	}
}

// When tiproxy ends, so does everything: those in the queue as well.
func TestInherit_Stop(t *testing.T) {
	t.Parallel()
	t.Run("waits for clients", func(t *testing.T) {
		t.Parallel()
		p, _ := runHeir(t, setup{flags: []string{"--drain-timeout", "10m"}})
		c := dial(t, host(), p.address())
		mustAsk(t, c, "hello")
		p.signal(syscall.SIGTERM)
		if e := p.expect("stopping"); e.text("connections") != "1" {
			t.Errorf("waits for another number: %s", e.line)
		}
		mustAsk(t, c, "still here")
		c.Close()
		p.ends(prompt)
		p.refuses()
	})
	t.Run("lets nobody in", func(t *testing.T) {
		t.Parallel()
		p, _ := runHeir(t, setup{flags: []string{"--drain-timeout", "10m"}})
		c := dial(t, host(), p.address())
		mustAsk(t, c, "hello")
		p.signal(syscall.SIGTERM)
		p.expect("stopping")
		if late, err := net.DialTimeout("tcp", p.address(), 300*time.Millisecond); err == nil {
			late.Close()
			t.Error("a client comes in while those who are there finish")
		}
		mustAsk(t, c, "still here")
		c.Close()
		p.ends(prompt)
		p.refuses()
	})
	t.Run("resets who waits at once", func(t *testing.T) {
		t.Parallel()
		p, _ := runHeir(t, setup{flags: []string{"--stop-timeout", "10m", "--drain-timeout", "10m"}}, "mute")
		c := dial(t, host(), p.address())
		p.says("child is mute")
		p.signal(syscall.SIGTERM)
		_ = c.SetReadDeadline(time.Now().Add(bound))
		if _, err := c.Read(make([]byte, 1)); !wasReset(err) {
			t.Errorf("who waits hears %v, want a reset", err)
		}
		p.onlyChild() // did not have to end for that
		p.signal(syscall.SIGTERM)
		p.ends(prompt)
	})
	t.Run("resets who waits", func(t *testing.T) {
		t.Parallel()
		p := run(t, setup{program: self, args: []string{"role", "never"}, flags: []string{"--path", "inherit"}})
		c := dial(t, host(), p.address())
		p.expect("starting")
		p.signal(syscall.SIGTERM)
		if _, err := c.Read(make([]byte, 1)); !wasReset(err) {
			t.Errorf("who waits hears %v, want a reset", err)
		}
		p.ends(prompt)
	})
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		p, _ := runHeir(t, setup{})
		c := dial(t, host(), p.address())
		mustAsk(t, c, "hello")
		p.kill()
		p.gone()
		if _, err := io.ReadAll(c); err != nil && !wasReset(err) {
			t.Error(err)
		}
	})
}

// A program that knows nothing of inherited sockets is a failed start whose
// reason is told.
func TestInherit_ChildThatTakesNobody(t *testing.T) {
	t.Parallel()
	p := run(t, setup{
		program: self, args: []string{"role", "never"}, allow: []string{"start failed"},
		flags: []string{"--path", "inherit", "--start-timeout", "500ms"},
	})
	if _, err := ask(dial(t, host(), p.address()), "hello"); !wasReset(err) {
		t.Errorf("the client hears %v, want a reset", err)
	}
	if e := p.expect("start failed"); !strings.Contains(e.line, "LISTEN_FDS") {
		t.Errorf("no reason: %s", e.line)
	}
}

// Around the end of the idle time nobody is refused or cut by a child that
// finishes what it has taken, with and without rights.
func TestInherit_NoClientIsLostAtABadMoment(t *testing.T) {
	t.Parallel()
	t.Run("root", func(t *testing.T) {
		t.Parallel()
		soakHeir(t, nil, rounds(60, 1000))
	})
	t.Run("a plain user", func(t *testing.T) {
		t.Parallel()
		needRoot(t, "another user")
		soakHeir(t, append([]string{"setpriv"}, asNobody...), rounds(60, 1000))
	})
}

func soakHeir(t *testing.T, wrapper []string, cycles int) {
	t.Helper()
	const idle = 60 * time.Millisecond
	p, _ := runHeir(t, setup{wrapper: wrapper, flags: []string{"--idle", idle.String()}})
	if err := visit(p.address(), 0); err != nil {
		t.Fatal(err)
	}
	eventuallyAsleep(p)
	before := readResources(t, p.pid())
	clients := 0
	for p.log.count("starting") < cycles && !t.Failed() {
		clients += soakRound(t, p.address(), soakPace{idle, 120 * time.Millisecond, 50 * time.Millisecond})
	}
	eventuallyAsleep(p)
	after := readResources(t, p.pid())
	t.Logf("%d clients, %d starts; before: %+v after: %+v", clients, p.log.count("starting"), before, after)
	if after.descriptors > before.descriptors {
		t.Errorf("%d descriptors, %d before: some were not closed", after.descriptors, before.descriptors)
	}
	p.countGoroutines()
}

// Debian's mariadbd takes its clients from what it is handed, also when nobody here
// has any rights.
func TestInherit_MariaDB(t *testing.T) {
	t.Parallel()
	for name, wrapper := range map[string][]string{
		"root":         nil,
		"a plain user": {"setpriv", "--reuid", "mysql", "--regid", "mysql", "--clear-groups"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			heirIsMariaDB(t, wrapper)
		})
	}
}

func heirIsMariaDB(t *testing.T, wrapper []string) {
	t.Helper()
	db := newMariaDB(t)
	p := run(t, setup{
		program: "mariadbd", args: db.args("--skip-name-resolve"), wrapper: wrapper,
		flags: []string{"--path", "inherit", "--ready", "notify", "--idle", "500ms"},
	})
	mysql := []string{"mysql", "--no-defaults", "-h", "127.0.0.1", "-P", p.port(), "-u", "root", "-N"}
	query := func(sql string) string {
		return strings.TrimSpace(mustClient(t, "", append(mysql, "-e", sql)...))
	}
	query("CREATE DATABASE shop; CREATE TABLE shop.items (n INT PRIMARY KEY); INSERT INTO shop.items VALUES (7)")
	p.expect("opened")
	one := openSession(t, host(), append(mysql, "--unbuffered")...)
	one.say("SELECT CONCAT('host ', SUBSTRING_INDEX(host, ':', 1)) FROM information_schema.processlist WHERE id = CONNECTION_ID();\n")
	one.hears("host 127.0.0.1")
	if got := query("SELECT n FROM shop.items"); got != "7" {
		t.Errorf("got %q", got)
	}
	one.close()
	if e := p.expect("shutdown"); e.text("reason") != "idle" {
		t.Errorf("ends: %s", e.line)
	}
	p.expect("closed")
	p.asleep()
	if got := query("SELECT n FROM shop.items"); got != "7" {
		t.Errorf("after the sleep: %q", got)
	}
}
