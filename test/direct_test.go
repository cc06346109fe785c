//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// directNotHere is why the direct path cannot be had on this machine, "" if it can.
var directNotHere = sync.OnceValue(func() string {
	cmd := exec.Command(binary, "--bind", "127.0.0.1:0", "--dest", "127.0.0.1:1", "--exec", "true", "--path", "direct")
	said, err := cmd.StderrPipe()
	if err != nil {
		return err.Error()
	}
	if err := host().start(cmd); err != nil {
		return err.Error()
	}
	var all bytes.Buffer
	here := false
	for lines := bufio.NewScanner(io.TeeReader(said, &all)); !here && lines.Scan(); {
		here = strings.Contains(lines.Text(), "listening")
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_, _ = io.Copy(&all, said)
	_ = wait(cmd) // how it ended is in what it said
	if here {
		return ""
	}
	return all.String()
})

// needDirect skips a test that this machine cannot run. CI can run them all.
func needDirect(t *testing.T) {
	t.Helper()
	why := directNotHere()
	if why != "" && os.Getenv("CI") != "" {
		t.Fatal("cannot test: ", why)
	}
	if why != "" {
		t.Skip("NOT TESTED: ", why)
	}
}

// pathVariable says on which path tests run that do not choose one.
const pathVariable = "E2E_PATH"

// mayBeDirect reports whether this is to be run on the direct path because
// everything is that can be.
func (s setup) mayBeDirect() bool {
	if os.Getenv(pathVariable) != "direct" || s.line != nil || len(s.wrapper) > 0 || s.path != "" || s.program == "" || s.dest == "" {
		return false
	}
	inEnv := slices.ContainsFunc(s.env, func(kv string) bool { return strings.HasPrefix(kv, "TIPROXY_") })
	if inEnv {
		return false
	}
	for _, word := range append([]string{s.bind, s.dest}, s.flags...) {
		name, _, _ := strings.Cut(word, "=")
		switch {
		case strings.HasPrefix(word, "unix:"), name == "--path", name == "dial":
			return false
		case slices.Contains([]string{
			"--allow", "--deny", "--wake-on", "--quiet-policy", "--max-connections", "--max-waiting", "--max-per-source", "--proxy-protocol", "--accept-proxy-protocol",
		}, name):
			return false
		}
	}
	return directNotHere() == "" // which TestDirect tells aloud
}

// copyOnly skips a test of what the direct path does otherwise on purpose: see
// docs/direct.md.
func copyOnly(t *testing.T, why string) {
	t.Helper()
	if os.Getenv(pathVariable) == "direct" {
		t.Skip("a difference of the direct path: ", why)
	}
}

// runDirect runs a tiproxy on the direct path.
func runDirect(t *testing.T, s setup) *tiproxy {
	t.Helper()
	needDirect(t)
	s.flags = append([]string{"--path", "direct"}, s.flags...)
	return run(t, s)
}

// runPeer runs it with a child that tells its clients who they are.
func runPeer(t *testing.T, bind string, flags ...string) *tiproxy {
	t.Helper()
	dest := "127.0.0.1:" + freePort(t)
	return runDirect(t, setup{bind: bind, dest: dest, program: self, args: []string{"role", "peer", dest}, flags: flags})
}

// isDirect asks a child that plays "peer" whether it sees the client itself.
func isDirect(t *testing.T, c net.Conn) bool {
	t.Helper()
	return mustAsk(t, c, "who am I") == fmt.Sprint(c.LocalAddr(), " ", c.RemoteAddr())
}

// led connects again and again until the kernel leads there.
func (p *tiproxy) led(address string) net.Conn {
	p.t.Helper()
	var c net.Conn
	eventually(p.t, "clients are led to the child", func() error {
		c = dial(p.t, p.setup.space, address)
		if isDirect(p.t, c) {
			return nil
		}
		c.Close()
		return errors.New("tiproxy is in between")
	})
	return c
}

func TestDirect_ChildSeesItsClients(t *testing.T) {
	for _, way := range []struct {
		bind    string
		hosts   []string // from where clients are led to the child
		carried []string // and from where they are not: it has no socket for them
	}{
		{"127.0.0.1:0", []string{"127.0.0.1"}, nil},
		{"127.0.0.77:0", []string{"127.0.0.77"}, nil},
		{"0.0.0.0:0", []string{"127.0.0.1", "127.1.2.3"}, nil},
		{":0", []string{"127.0.0.1"}, []string{"::1"}},
		{"[::1]:0", nil, []string{"::1"}},
	} {
		t.Run(way.bind, func(t *testing.T) {
			p := runPeer(t, way.bind, "--idle", "300ms")
			for life := range 2 {
				for _, h := range way.hosts {
					p.led(net.JoinHostPort(h, p.port())).Close()
				}
				for _, h := range way.carried {
					c := dial(t, host(), net.JoinHostPort(h, p.port()))
					if isDirect(t, c) {
						t.Errorf("life %d: a client of %s is led to a socket of another family", life+1, h)
					}
					c.Close()
				}
				if e := p.expect("shutdown"); e.text("reason") != "idle" {
					t.Errorf("life %d ends: %s", life+1, e.line)
				}
				p.asleep()
			}
		})
	}
}

func TestDirect_ConnectedClientsCostNothingAndKeepItAwake(t *testing.T) {
	p := runPeer(t, "", "--idle", "200ms")
	p.led(p.address()).Close()
	before := process{pid: p.pid()}.descriptors()
	var clients []net.Conn
	for range 100 {
		c := dial(t, host(), p.address())
		if !isDirect(t, c) {
			t.Fatal("a client is not led to the child")
		}
		clients = append(clients, c)
	}
	if after := (process{pid: p.pid()}).descriptors(); after > before {
		t.Errorf("%d descriptors with 100 clients, %d without", after, before)
	}
	if got := p.statistics().attrs["direct"].(map[string]any)["connections"]; got != 100.0 {
		t.Errorf("the statistics tell of %v connections", got)
	}
	for _, c := range clients[1:] {
		c.Close()
	}
	// Several idle times: the one that is left is enough.
	for range 15 {
		mustAsk(t, clients[0], "still here")
		<-time.After(50 * time.Millisecond)
	}
	if n := p.log.count("shutdown"); n != 0 {
		t.Fatal("the child was stopped under a client")
	}
	left := time.Now()
	clients[0].Close()
	p.expect("shutdown")
	if after := time.Since(left); after < 200*time.Millisecond {
		t.Errorf("stopped %v after the last client", after)
	}
	p.asleep()
}

func TestDirect_KilledChild(t *testing.T) {
	needDirect(t)
	dest := "127.0.0.1:" + freePort(t)
	p := runDirect(t, setup{dest: dest, program: self, args: []string{"role", "peer", dest}, allow: []string{"closed"}})
	for life := range 3 {
		one, two := p.led(p.address()), p.led(p.address())
		killed := p.running("e2e-child")
		if len(killed) != 1 {
			t.Fatalf("children: %v", killed)
		}
		if err := syscall.Kill(killed[0].pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for _, c := range []net.Conn{one, two} {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("a client of a killed child hears something")
			}
		}
		// The kernel closes a dying child's connections before its listener:
		// who comes in between shares its fate.
		p.expect("closed")
		if answer := mustAsk(t, dial(t, host(), p.address()), "who am I"); answer == "" {
			t.Errorf("life %d: the next client hears nothing", life+2)
		}
	}
}

func TestDirect_StopWaitsForClients(t *testing.T) {
	p := runPeer(t, "", "--drain-timeout", "10m", "--stop-timeout", "10m")
	one, two := p.led(p.address()), p.led(p.address())
	p.signal(syscall.SIGTERM)
	if e := p.expect("stopping"); e.text("connections") != "2" {
		t.Errorf("waits for another number: %s", e.line)
	}
	p.refuses()
	for _, c := range []net.Conn{one, two} {
		mustAsk(t, c, "still here")
		c.Close()
	}
	p.ends(prompt)
	p.says("child got terminated")
}

func TestDirect_StopDoesNotWaitForEver(t *testing.T) {
	for name, hurry := range map[string]func(*tiproxy){
		"drain timeout": func(*tiproxy) {},
		"second signal": func(p *tiproxy) { p.signal(syscall.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			drain := "10m"
			if name == "drain timeout" {
				drain = "300ms"
			}
			p := runPeer(t, "", "--drain-timeout", drain)
			c := p.led(p.address())
			p.signal(syscall.SIGTERM)
			p.expect("stopping")
			hurry(p)
			p.ends(prompt)
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("a client is still served")
			}
		})
	}
}

// Nothing in the kernel outlives tiproxy: the address is free, and nobody is
// led anywhere.
func TestDirect_SuddenDeath(t *testing.T) {
	bind := "127.0.0.1:" + freePort(t)
	p := runPeer(t, bind)
	c := p.led(bind)
	p.kill()
	p.gone()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a client is still served")
	}
	if other, err := net.Dial("tcp", bind); err == nil {
		other.Close()
		t.Error("somebody takes connections there")
	}
	next := runPeer(t, bind)
	next.led(bind).Close()
}

// A child that listens no more for a while, and then anew: clients wait, and
// are led to it again.
func TestDirect_ChildThatListensAnew(t *testing.T) {
	p := runPeer(t, "")
	stays := p.led(p.address())
	for range 3 {
		if answer := mustAsk(t, stays, "close your door"); answer != "closed" {
			t.Fatalf("the child says %q", answer)
		}
		waits := dial(t, host(), p.address())
		answer := make(chan string, 1)
		go askOnce(waits, "hello", answer)
		mustAsk(t, stays, "open your door")
		<-answer // it was told that the answer is not an echo: that is fine
		p.led(p.address()).Close()
	}
	mustAsk(t, stays, "still here")
	if n := p.log.count("starting"); n != 1 {
		t.Errorf("%d starts", n)
	}
}

// A Go program without multipathtcp=0 opens MPTCP sockets, which are carried.
func TestDirect_MultipathIsCarried(t *testing.T) {
	dest := "127.0.0.1:" + freePort(t)
	const carried = "direct path: clients of this life are carried instead"
	p := runDirect(t, setup{
		dest: dest, program: "env", args: []string{"-u", "GODEBUG", self, "role", "peer", dest}, allow: []string{carried},
		flags: []string{"--idle", "200ms"},
	})
	for range 3 {
		c := dial(t, host(), p.address())
		if isDirect(t, c) {
			t.Error("an MPTCP socket was led to")
		}
		c.Close()
	}
	if e := p.expect(carried); !strings.Contains(e.line, "MPTCP") {
		t.Errorf("no reason: %s", e.line)
	}
	p.expect("closed")
	p.asleep()
}

func TestDirect_AutoSaysWhichPathAndWhy(t *testing.T) {
	needDirect(t)
	dest := "127.0.0.1:" + freePort(t)
	for _, way := range []struct {
		flags     []string
		path, why string
	}{
		{nil, "direct", ""},
		{[]string{"--deny", "192.0.2.1"}, "copy", "--deny looks at every client"},
	} {
		p := run(t, setup{dest: dest, program: self, args: []string{"role", "peer", dest}, flags: append([]string{"--path", "auto"}, way.flags...)})
		if e, _, _ := p.log.next(0, "path", bound); e.text("path") != way.path || e.text("why") != way.why {
			t.Errorf("%v: %s", way.flags, e.line)
		}
		mustAsk(t, dial(t, host(), p.address()), "hello")
		p.signal(syscall.SIGTERM)
		p.ends(prompt)
	}
}

// Without the rights direct is an error before anything is started, and auto
// goes on.
func TestDirect_NeedsRights(t *testing.T) {
	needRoot(t, "another user")
	dest := "127.0.0.1:" + freePort(t)
	nobody := append([]string{"setpriv"}, asNobody...)
	p := launch(t, setup{wrapper: nobody, dest: dest, program: self, args: []string{"role", "peer", dest}, flags: []string{"--path", "direct"}, status: 1})
	p.ends(prompt)
	p.says("--path direct cannot be had here")
	p.says("CAP_BPF")
	p = run(t, setup{wrapper: nobody, dest: dest, program: self, args: []string{"role", "peer", dest}, flags: []string{"--path", "auto"}})
	if isDirect(t, dial(t, host(), p.address())) {
		t.Error("it can do what it has no right to")
	}
}

// The clients of one moment are not the clients of another: around the end of
// the idle time nobody is refused, reset or cut, on this path either.
func TestDirect_SoakNoClientIsLostAtABadMoment(t *testing.T) {
	t.Parallel()
	cycles := 100
	if n := os.Getenv("E2E_CYCLES"); n != "" {
		var err error
		if cycles, err = strconv.Atoi(n); err != nil {
			t.Fatal(err)
		}
	}
	const idle = 60 * time.Millisecond
	dest := "127.0.0.1:" + freePort(t)
	p := runDirect(t, setup{dest: dest, program: self, args: []string{"role", "dying", dest}, flags: []string{"--idle", idle.String()}})
	if err := visit(p.address(), 0); err != nil {
		t.Fatal(err)
	}
	eventuallyAsleep(p)
	before := readResources(t, p.pid())
	clients, began := 0, time.Now()
	for p.log.count("starting") < cycles && !t.Failed() {
		clients += soakRound(t, p.address(), soakPace{idle, 120 * time.Millisecond, 50 * time.Millisecond})
	}
	eventuallyAsleep(p)
	after := readResources(t, p.pid())
	led := p.statistics().attrs["direct"].(map[string]any)["begun"]
	t.Logf("%d clients, %v of them led, %d starts in %v; before: %+v after: %+v", clients, led, p.log.count("starting"), time.Since(began).Round(time.Second), before, after)
	if n, _ := led.(float64); n < float64(cycles)/4 {
		t.Errorf("only %v clients were led to the child", led)
	}
	if after.descriptors > before.descriptors {
		t.Errorf("%d descriptors, %d before: some were not closed", after.descriptors, before.descriptors)
	}
	p.countGoroutines()
}
