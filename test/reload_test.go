//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// file is a configuration that changes.
type file struct {
	p      *tiproxy
	path   string
	socket string
}

// runReloadable runs the services of a file that can be read again.
func runReloadable(t *testing.T, services string, allow ...string) *file {
	t.Helper()
	f := &file{socket: filepath.Join(sharedDir(t), "admin")}
	f.path = configFile(t, f.text(services))
	f.p = run(t, setup{line: []string{binary, "run", "--config", f.path}, allow: allow})
	return f
}

func (f *file) text(services string) string {
	return fmt.Sprintf("admin: unix:%s\ndefaults: {idle: 1m, drain-timeout: 10s}\nservices:\n%s", f.socket, services)
}

func (f *file) write(services string) {
	f.p.t.Helper()
	if err := os.WriteFile(f.path, []byte(f.text(services)), 0o644); err != nil {
		f.p.t.Fatal(err)
	}
}

// becomes has tiproxy read other services.
func (f *file) becomes(services string) event {
	f.p.t.Helper()
	f.write(services)
	f.p.signal(syscall.SIGHUP)
	return f.p.expect("reloaded")
}

// echoing is a service whose child says who it is. more are further settings.
func echoing(name, bind string, more ...string) string {
	return fmt.Sprintf("  %s: {%s}\n", name, strings.Join(append([]string{
		fmt.Sprintf(`bind: "%s", dest: "127.0.0.1:{port}", exec: %s, args: [role, echo, "127.0.0.1:{port}"]`, bind, self),
	}, more...), ", "))
}

const anyPort = "127.0.0.1:0"

func TestReload_WhatIsUnchangedIsNotTouched(t *testing.T) {
	t.Parallel()
	f := runReloadable(t, echoing("one", anyPort)+echoing("two", anyPort))
	one, two := dial(t, host(), f.p.bindOf("one")), dial(t, host(), f.p.bindOf("two"))
	first, second := mustAsk(t, one, "hello"), mustAsk(t, two, "hello")
	e := f.becomes(echoing("one", anyPort) + echoing("two", anyPort, "idle: 200ms") + echoing("three", anyPort))
	if !strings.HasSuffix(e.line, `"added":["three"],"changed":["two"],"removed":[],"unchanged":1}`) {
		t.Errorf("reloaded as %s", e.line)
	}
	if again := mustAsk(t, one, "hello"); again != first {
		t.Errorf("one is served by %s, and by %s before", again, first)
	}
	if again := mustAsk(t, two, "hello"); again != second {
		t.Errorf("two is served by %s, and by %s before", again, second)
	}
	mustAsk(t, dial(t, host(), f.p.bindOf("three")), "hello")
	two.Close() // the new idle time holds for the child that there is
	if e := f.p.expect("closed"); e.text("service") != "two" || e.text("reason") != "idle" {
		t.Errorf("closed: %s", e.line)
	}
	if got := f.p.lives("one"); got != 1 {
		t.Errorf("one has had %d children", got)
	}
}

// An idle time that runs already is the new one, too.
func TestReload_IdleTimeAtOnce(t *testing.T) {
	t.Parallel()
	f := runReloadable(t, echoing("one", anyPort))
	c := dial(t, host(), f.p.bindOf("one"))
	mustAsk(t, c, "hello")
	c.Close()
	f.becomes(echoing("one", anyPort, "idle: 50ms"))
	if e := f.p.expect("closed"); e.text("reason") != "idle" {
		t.Errorf("closed: %s", e.line)
	}
}

func TestReload_ANewCommandLineAtTheNextStart(t *testing.T) {
	t.Parallel()
	f := runReloadable(t, echoing("one", anyPort))
	c := dial(t, host(), f.p.bindOf("one"))
	before := mustAsk(t, c, "hello")
	f.becomes(echoing("one", anyPort, `env: {COLOUR: red}`, "idle: 50ms"))
	if again := mustAsk(t, c, "hello"); again != before {
		t.Errorf("served by %s, and by %s before", again, before)
	}
	if got := f.environ(before); slices.Contains(got, "COLOUR=red") {
		t.Error("a child's environment has changed under it")
	}
	c.Close()
	f.p.expect("closed")
	c = dial(t, host(), f.p.bindOf("one"))
	if got := f.environ(mustAsk(t, c, "hello")); !slices.Contains(got, "COLOUR=red") {
		t.Errorf("the next child has %q", got)
	}
}

// environ is the environment of the child that says of itself "PID …".
func (f *file) environ(string) []string {
	f.p.t.Helper()
	var all []string
	for _, x := range f.p.running(filepath.Base(self)) {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", x.pid))
		if err != nil {
			f.p.t.Fatal(err)
		}
		all = append(all, strings.Split(string(env), "\x00")...)
	}
	return all
}

// What is wrong with the new file is said as check says it, and nothing changes.
func TestReload_AWrongFileChangesNothing(t *testing.T) {
	t.Parallel()
	f := runReloadable(t, echoing("one", anyPort)+echoing("two", anyPort), "reload failed")
	c := dial(t, host(), f.p.bindOf("one"))
	before := mustAsk(t, c, "hello")
	f.write(echoing("one", anyPort, "idle: 5", "idel: 5m"))
	f.p.signal(syscall.SIGHUP)
	e := f.p.expect("reload failed")
	for _, want := range []string{f.path + ":4:", "did you mean idle?", "services.one.idle"} {
		if !strings.Contains(e.line, want) {
			t.Errorf("%s\ndoes not say %s", e.line, want)
		}
	}
	r := client(t, "", binary, "reload", "--admin", "unix:"+f.socket)
	if said := r.stdout + r.stderr; r.status == 0 || !strings.Contains(said, "did you mean idle?") || !strings.Contains(said, "everything stays as it was") {
		t.Errorf("tiproxy reload: exit status %d\n%s", r.status, said)
	}
	if again := mustAsk(t, c, "hello"); again != before {
		t.Errorf("served by %s, and by %s before", again, before)
	}
	mustAsk(t, dial(t, host(), f.p.bindOf("two")), "hello")
	if got := metric(t, f.socket, "tiproxy_config_last_reload_successful"); got != "0" {
		t.Errorf("the last reload was successful: %s", got)
	}
	f.write(echoing("one", anyPort) + echoing("two", anyPort))
	if said := steer(t, f.socket, "reload"); !strings.Contains(said, "nothing has changed") {
		t.Errorf("tiproxy reload says %q", said)
	}
	if got := metric(t, f.socket, "tiproxy_config_last_reload_successful"); got != "1" {
		t.Errorf("the last reload was successful: %s", got)
	}
}

// An address that is taken is found before anything has changed.
func TestReload_AnAddressThatIsTakenChangesNothing(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := runReloadable(t, echoing("one", anyPort)+echoing("gone", anyPort), "reload failed")
	c := dial(t, host(), f.p.bindOf("one"))
	before := mustAsk(t, c, "hello")
	f.write(echoing("one", anyPort, "idle: 1ms") + echoing("fine", anyPort) + echoing("new", l.Addr().String()))
	f.p.signal(syscall.SIGHUP)
	if e := f.p.expect("reload failed"); !strings.Contains(e.line, "address already in use") {
		t.Errorf("said: %s", e.line)
	}
	if got := metric(t, f.socket, `tiproxy_connections_active{service="fine"}`) + metric(t, f.socket, `tiproxy_backend_ready_duration_seconds_count{service="fine"}`); got != "" {
		t.Errorf("a service that there is not is counted: %s", got)
	}
	if again := mustAsk(t, c, "hello"); again != before {
		t.Errorf("served by %s, and by %s before", again, before)
	}
	mustAsk(t, dial(t, host(), f.p.bindOf("gone")), "hello")
}

// Clients of a removed service may finish; nobody new gets in.
func TestReload_ARemovedServiceDrains(t *testing.T) {
	t.Parallel()
	f := runReloadable(t, echoing("one", anyPort)+echoing("two", anyPort))
	at := f.p.bindOf("two")
	c := dial(t, host(), at)
	before := mustAsk(t, c, "hello")
	f.becomes(echoing("one", anyPort))
	if c, err := tryDial(host(), at); err == nil {
		c.Close()
		t.Error("somebody gets in")
	}
	if again := mustAsk(t, c, "hello"); again != before {
		t.Errorf("served by %s, and by %s before", again, before)
	}
	c.Close()
	if e := f.p.expect("closed"); e.text("service") != "two" {
		t.Errorf("closed: %s", e.line)
	}
	f.p.expect("gone")
	if got := metric(t, f.socket, `tiproxy_connections_active{service="two"}`); got != "" {
		t.Errorf("it is still counted: %s", got)
	}
}

// A service that moves keeps its child and its clients.
func TestReload_ANewAddress(t *testing.T) {
	t.Parallel()
	f := runReloadable(t, echoing("one", anyPort))
	old := f.p.bindOf("one")
	c := dial(t, host(), old)
	before := mustAsk(t, c, "hello")
	at := "127.0.0.1:" + freePort(t)
	f.becomes(echoing("one", at))
	if again := mustAsk(t, dial(t, host(), at), "hello"); again != before {
		t.Errorf("at the new address %s serves, and %s before", again, before)
	}
	if again := mustAsk(t, c, "hello"); again != before {
		t.Errorf("served by %s, and by %s before", again, before)
	}
	if c, err := tryDial(host(), old); err == nil {
		c.Close()
		t.Error("the old address still takes clients")
	}
}

// Who changes names, or the way of bytes, leaves the door open meanwhile.
func TestReload_AnAddressIsHandedOn(t *testing.T) {
	t.Parallel()
	at := "127.0.0.1:" + freePort(t)
	f := runReloadable(t, echoing("one", at))
	c := dial(t, host(), at)
	before := mustAsk(t, c, "hello")
	f.becomes(echoing("other", at))
	late := dial(t, host(), at) // waits until the old child has gone
	if again := mustAsk(t, c, "hello"); again != before {
		t.Errorf("served by %s, and by %s before", again, before)
	}
	c.Close()
	if after := mustAsk(t, late, "hello"); after == before {
		t.Errorf("the child of the removed service serves the new one's client: %s", after)
	}
	f.p.expect("gone")
	if f.p.lives("other") != 1 {
		t.Errorf("other has had %d children", f.p.lives("other"))
	}
}

func TestReload_ManyTimesWithClientsAllTheTime(t *testing.T) {
	t.Parallel()
	at := "127.0.0.1:" + freePort(t)
	f := runReloadable(t, echoing("one", at)+echoing("two", anyPort))
	stop, failed := make(chan struct{}), make(chan error, 1)
	go askAllTheTime(t, at, stop, failed)
	for n := range 30 {
		services := echoing("one", at, fmt.Sprintf("idle: %dms", 1+n), fmt.Sprintf("env: {N: '%d'}", n))
		if n%3 == 0 {
			services += echoing("two", anyPort)
		}
		f.becomes(services)
	}
	close(stop)
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

// askAllTheTime has one client after the other served at an address.
func askAllTheTime(t *testing.T, at string, stop <-chan struct{}, failed chan<- error) {
	for {
		select {
		case <-stop:
			failed <- nil
			return
		default:
		}
		if _, err := askAfresh(t, host(), at, "hello"); err != nil {
			failed <- err
			return
		}
	}
}

// What a child prints goes elsewhere from now on, also that of the child there is.
func TestReload_LogFileAtOnce(t *testing.T) {
	t.Parallel()
	f := runReloadable(t, echoing("one", anyPort))
	c := dial(t, host(), f.p.bindOf("one"))
	mustAsk(t, c, "hello")
	path := filepath.Join(sharedDir(t), "one.log")
	f.becomes(echoing("one", anyPort, "idle: 1ms", `logs: "file:`+path+`"`))
	c.Close()
	f.p.expect("closed") // the child has said so
	eventually(t, "the file has what the child said", func() error {
		text, err := os.ReadFile(path)
		if err == nil && !strings.Contains(string(text), "child got terminated") {
			err = fmt.Errorf("it has %q", text)
		}
		return err
	})
	if strings.Contains(f.p.log.text(), "child got") {
		t.Error("it was passed on, too")
	}
}

// Two services that change places lose nobody: clients wait until the old children
// are gone.
func TestReload_TwoChangePlaces(t *testing.T) {
	t.Parallel()
	a, b := "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	f := runReloadable(t, echoing("one", a)+echoing("two", b))
	for n := range 4 {
		for _, at := range []string{a, b} {
			if _, err := askAfresh(t, host(), at, "hello"); err != nil {
				t.Errorf("after %d changes: %v", n, err)
			}
		}
		one, two := a, b
		if n%2 == 0 {
			one, two = b, a
		}
		f.becomes(echoing("one", one) + echoing("two", two))
	}
}

// Two services whose children change places lose nobody either: none begins where
// the other's still is.
func TestReload_TwoChildrenChangePlaces(t *testing.T) {
	t.Parallel()
	a, b := "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	at := func(name, dest string) string {
		return strings.ReplaceAll(echoing(name, anyPort), "127.0.0.1:{port}", dest)
	}
	f := runReloadable(t, at("one", a)+at("two", b))
	one := dial(t, host(), f.p.bindOf("one"))
	before := mustAsk(t, one, "hello")
	f.becomes(at("one", b) + at("two", a))
	two := dial(t, host(), f.p.bindOf("two"))
	if again := mustAsk(t, one, "hello"); again != before {
		t.Errorf("served by %s, and by %s before", again, before)
	}
	one.Close()
	mustAsk(t, two, "hello")
	if after, err := askAfresh(t, host(), f.p.bindOf("one"), "hello"); err != nil || after == before {
		t.Errorf("then served by %s, %v", after, err)
	}
}

// Where a service listens may become wider, and narrower again.
func TestReload_AnAddressThatContainsTheOldOne(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	f := runReloadable(t, echoing("one", "127.0.0.1:"+port))
	c := dial(t, host(), "127.0.0.1:"+port)
	before := mustAsk(t, c, "hello")
	for _, at := range []string{"0.0.0.0:", "localhost:", "127.0.0.1:", ":", "127.0.0.1:"} {
		f.becomes(echoing("one", at+port))
		for _, who := range []net.Conn{c, dial(t, host(), "127.0.0.1:"+port)} {
			if again := mustAsk(t, who, "hello"); again != before {
				t.Errorf("at %s%s %s serves, and %s before", at, port, again, before)
			}
		}
	}
	if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
		l.Close()
		t.Error("somebody else can listen there")
	}
}

// Who moves may leave the old address to somebody else.
func TestReload_AnAddressIsLeftToANewService(t *testing.T) {
	t.Parallel()
	dir := sharedDir(t)
	tcp := []string{"127.0.0.1:" + freePort(t), "127.0.0.1:" + freePort(t)}
	unix := []string{"unix:" + filepath.Join(dir, "a"), "unix:" + filepath.Join(dir, "b")}
	for _, at := range [][]string{tcp, unix} {
		f := runReloadable(t, echoing("one", at[0]))
		before, err := askAfresh(t, host(), f.p.bindOf("one"), "hello")
		if err != nil {
			t.Fatal(err)
		}
		f.becomes(echoing("one", at[1]) + echoing("two", at[0]))
		if again, err := askAfresh(t, host(), at[1], "hello"); err != nil || again != before {
			t.Errorf("at %s %s serves, and %s before; %v", at[1], again, before, err)
		}
		if other, err := askAfresh(t, host(), at[0], "hello"); err != nil || other == before {
			t.Errorf("at %s %s serves, %v", at[0], other, err)
		}
	}
}
