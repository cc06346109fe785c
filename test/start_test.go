//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rounds is how often something is tried: more in the long forms, for which
// E2E_LONG is set (make faults).
func rounds(short, long int) int {
	if os.Getenv("E2E_LONG") != "" {
		return long
	}
	return short
}

// statistics asks tiproxy for its numbers.
func (p *tiproxy) statistics() event {
	p.t.Helper()
	before := p.log.count("statistics")
	p.signal(syscall.SIGUSR1)
	if !p.log.until(bound, func() bool { return p.log.count("statistics") > before }) {
		p.t.Fatal("tiproxy does not tell its statistics")
	}
	all := p.log.all()
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].msg == "statistics" {
			return all[i]
		}
	}
	return event{}
}

// holdsWaiting waits until n clients wait for the child.
func (p *tiproxy) holdsWaiting(n int) {
	p.t.Helper()
	eventually(p.t, fmt.Sprint(n, " clients wait"), func() error {
		if got := p.statistics().text("waiting"); got != fmt.Sprint(n) {
			return fmt.Errorf("%s wait", got)
		}
		return nil
	})
}

// onlyChild is the one process below tiproxy that runs this test binary.
func (p *tiproxy) onlyChild() process {
	p.t.Helper()
	child := p.running("e2e-child")
	if len(child) != 1 {
		p.t.Fatalf("tree: %v", p.tree())
	}
	return child[0]
}

func makeFile(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// makeScript makes a program of a shell's words, at once and whole.
func makeScript(t *testing.T, path, words string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte("#!/bin/sh\n"+words+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// The directory goes away between two starts, and comes back.
func TestStart_WorkdirThatWentAway(t *testing.T) {
	t.Parallel()
	dest, dir := "127.0.0.1:"+freePort(t), filepath.Join(sharedDir(t), "work")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "echo", dest},
		flags: []string{"--workdir", dir, "--idle", "10ms"}, allow: []string{"start failed"},
	})
	c := dial(t, host(), p.address())
	mustAsk(t, c, "there")
	c.Close()
	p.expect("closed")
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if answer, err := askAfresh(t, host(), p.address(), "gone"); !wasReset(err) {
		t.Errorf("the client got %q, %v; want a reset", answer, err)
	}
	if e := p.expect("start failed"); !strings.Contains(e.line, "working directory") || !strings.Contains(e.line, dir) {
		t.Errorf("the log does not name the directory: %s", e.line)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mustAsk(t, dial(t, host(), p.address()), "back")
}

// The end of the child ends the waiting, long before the start timeout.
func TestStart_FailureIsToldAtOnceToAll(t *testing.T) {
	t.Parallel()
	end := filepath.Join(sharedDir(t), "end")
	p := run(t, setup{
		dest: "127.0.0.1:" + freePort(t), program: self, args: []string{"role", "fails", end},
		flags: []string{"--start-timeout", "10m"}, allow: []string{"start failed"},
	})
	clients := make([]net.Conn, 20)
	for i := range clients {
		clients[i] = dial(t, host(), p.address())
	}
	p.holdsWaiting(len(clients))
	p.says("child waits for its end")
	makeFile(t, end)
	began := time.Now()
	for _, c := range clients {
		if rest, err := io.ReadAll(c); !wasReset(err) {
			t.Errorf("a client got %q, %v; want a reset", rest, err)
		}
	}
	took := time.Since(began)
	t.Logf("all were told %v after the child was sent to its end", took.Round(time.Millisecond))
	if took > prompt {
		t.Errorf("they were told after %v", took)
	}
	e := p.expect("start failed")
	if !strings.Contains(e.line, "exit status 3") || !strings.Contains(e.line, "child has no more luck") {
		t.Errorf("the log tells neither status nor last words: %s", e.line)
	}
	p.asleep()
	if n := p.log.count("starting"); n != 1 {
		t.Errorf("%d starts for %d clients that came together", n, len(clients))
	}
}

// Many clients come again and again to a program that fails. It is started a
// few times only, and when it works all of them are served.
func TestStart_CrashLoopIsPacedAndHeals(t *testing.T) {
	t.Parallel()
	dest, program := "127.0.0.1:"+freePort(t), filepath.Join(sharedDir(t), "server")
	makeScript(t, program, "exit 3")
	p := run(t, setup{
		dest: dest, program: program, args: []string{"role", "echo", dest}, allow: []string{"start failed"},
	})
	results := make(chan error, rounds(100, 1000))
	for range cap(results) {
		go func() { results <- untilServed(p.address()) }()
	}
	for range 3 {
		p.expect("start failed")
	}
	makeScript(t, program, `exec `+self+` "$@"`)
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	starts, failed := p.log.count("starting"), p.log.count("start failed")
	if starts != failed+1 || failed > 5 {
		t.Errorf("%d starts and %d failures; want a few, and all but one failed", starts, failed)
	}
	if lines := len(p.log.all()); lines > 5*starts+5 {
		t.Errorf("%d lines in the log for %d starts: it grows with the clients", lines, starts)
	}
}

// untilServed is a client that comes again after each reset.
func untilServed(address string) error {
	for end := time.Now().Add(2 * bound); time.Now().Before(end); {
		c, err := tryDial(host(), address)
		if err == nil {
			_, err = ask(c, "hello")
			c.Close()
		}
		if err == nil {
			return nil
		}
		if !wasReset(err) {
			return fmt.Errorf("a client was told %w, want a reset", err)
		}
	}
	return fmt.Errorf("a client was not served within %v", 2*bound)
}

// A start is finished for nobody, and who left is not counted.
func TestStart_WhoLeavesIsForgotten(t *testing.T) {
	t.Parallel()
	dest, ready := "127.0.0.1:"+freePort(t), filepath.Join(sharedDir(t), "ready")
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "late", dest, ready},
		flags: []string{"--idle", "1ms"},
	})
	clients := []net.Conn{dial(t, host(), p.address()), dial(t, host(), p.address()), dial(t, host(), p.address())}
	for _, c := range clients {
		if _, err := io.WriteString(c, "abc"); err != nil {
			t.Fatal(err)
		}
	}
	if err := clients[2].(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	p.holdsWaiting(3)
	for _, c := range clients {
		resetConn(c)
	}
	p.holdsWaiting(0)
	makeFile(t, ready)
	p.expect("opened")
	if e := p.expect("shutdown"); !strings.Contains(e.text("reason"), "idle") {
		t.Errorf("stopped for another reason: %s", e.line)
	}
	p.expect("closed")
	p.asleep()
	if n := p.log.count("starting"); n != 1 {
		t.Errorf("%d starts", n)
	}
}

// The program puts a server into the background and ends.
func TestStart_DaemonIsAFailureWithAHint(t *testing.T) {
	t.Parallel()
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		dest: dest, program: "sh", args: []string{"-c", `setsid "$@" & exit 0`, "sh", self, "role", "echo", dest},
		allow: []string{"start failed"},
	})
	if answer, err := askAfresh(t, host(), p.address(), "hello"); !wasReset(err) {
		t.Errorf("the client got %q, %v; want a reset", answer, err)
	}
	if e := p.expect("start failed"); !strings.Contains(e.text("hint"), "foreground") {
		t.Errorf("no hint on how to keep it in the foreground: %s", e.line)
	}
	p.expect("closed")
	p.asleep()
	if n := p.log.count("starting"); n != 1 {
		t.Errorf("%d starts for one client", n)
	}
}

func TestStart_ChildFindsWhatTiproxyWasStartedWith(t *testing.T) {
	t.Parallel()
	p := run(t, setup{
		dest: "127.0.0.1:" + freePort(t), program: "sleep", args: []string{"1000"},
		wrapper: []string{self, "role", "unblocked", "sh", "-c", `umask 027; ulimit -S -n 777; echo 300 >/proc/self/oom_score_adj; exec "$@"`, "sh"},
	})
	dial(t, host(), p.address())
	p.expect("starting")
	var child []process
	eventually(t, "the child runs", func() error {
		if child = p.running("sleep"); len(child) != 1 {
			return fmt.Errorf("tree: %v", p.tree())
		}
		return nil
	})
	for file, want := range map[string]string{
		"status":        "Umask:\t0027\n",
		"limits":        "Max open files            777 ",
		"oom_score_adj": "300\n",
	} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", child[0].pid, file))
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s should say %q, %v:\n%s", file, want, err, text)
		}
	}
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if sig == 32 || sig == 33 {
			continue // the C library's own: see nptl(7)
		}
		if inMask(t, child[0].pid, "SigBlk:", sig) || ignores(t, child[0].pid, sig) {
			t.Errorf("signal %d is blocked or ignored", sig)
		}
	}
}

// A relative path of the program is seen from where tiproxy was started.
func TestStart_RelativeProgramIsTiproxysOwn(t *testing.T) {
	t.Parallel()
	dest, here, work := "127.0.0.1:"+freePort(t), sharedDir(t), sharedDir(t)
	makeScript(t, filepath.Join(here, "server"), `exec `+self+` "$@"`)
	makeScript(t, filepath.Join(work, "server"), "exit 9")
	p := run(t, setup{
		dest: dest, program: "./server", args: []string{"role", "echo", dest}, dir: here, flags: []string{"--workdir", work},
	})
	mustAsk(t, dial(t, host(), p.address()), "hello")
	if e, _, _ := p.log.next(0, "listening", bound); e.text("program") != filepath.Join(here, "server") {
		t.Errorf("the log does not tell the whole path: %s", e.line)
	}
	if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.onlyChild().pid)); dir != work {
		t.Errorf("the child is in %q, %v; want %s", dir, err, work)
	}
}

// Root is told when others decide what it runs.
func TestStart_RootIsWarnedOfAProgramOthersMayChange(t *testing.T) {
	t.Parallel()
	needRoot(t, "being root")
	const warning = "others than root may change the program that root runs"
	for name, tt := range map[string]struct {
		change func(dir, program string) error
		at     string // below the directory; "-" for no warning
	}{
		"root's alone":          {func(string, string) error { return nil }, "-"},
		"writable program":      {func(_, program string) error { return os.Chmod(program, 0o777) }, "bin/server"},
		"another's program":     {func(_, program string) error { return os.Chown(program, 65534, 0) }, "bin/server"},
		"writable directory":    {func(dir, _ string) error { return os.Chmod(dir+"/bin", 0o777) }, "bin"},
		"another's directory":   {func(dir, _ string) error { return os.Chown(dir, 65534, 0) }, ""},
		"a group's directory":   {func(dir, _ string) error { return errors.Join(os.Chown(dir, 0, 65534), os.Chmod(dir, 0o775)) }, ""},
		"sticky directory":      {func(dir, _ string) error { return os.Chmod(dir+"/bin", 0o777|os.ModeSticky) }, "-"},
		"root's group may":      {func(dir, _ string) error { return os.Chmod(dir, 0o775) }, "-"},
		"link into a directory": {func(dir, _ string) error { return linkInto(dir) }, "elsewhere"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := sharedDir(t)
			program := filepath.Join(dir, "bin", "server")
			if err := os.Mkdir(filepath.Dir(program), 0o755); err != nil {
				t.Fatal(err)
			}
			makeScript(t, program, "exit 1")
			if err := tt.change(dir, program); err != nil {
				t.Fatal(err)
			}
			p := run(t, setup{dest: "127.0.0.1:" + freePort(t), program: program, allow: []string{warning}})
			e, _, warned := p.log.next(0, warning, 0)
			if warned != (tt.at != "-") || warned && e.text("at") != filepath.Join(dir, tt.at) {
				t.Errorf("warned: %v, want it at %q: %s", warned, tt.at, e.line)
			}
		})
	}
}

// linkInto moves the program to a directory that all may write, and leaves a link.
func linkInto(dir string) error {
	away := filepath.Join(dir, "elsewhere")
	return errors.Join(
		os.Mkdir(away, 0o755), os.Chmod(away, 0o777),
		os.Rename(dir+"/bin/server", away+"/server"), os.Symlink(away+"/server", dir+"/bin/server"))
}
