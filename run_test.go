package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRun_TellsTheLifeOfAChild(t *testing.T) {
	t.Parallel()
	r := start(t, nil, serving(t, "serves", "--idle", "50ms", "--env", "SECRET=canary")...)
	c := r.dial()
	says(t, c, "hello")
	c.Close()
	closed := r.logged(msgClosed, 1)
	starting, opened, shutdown := r.find(msgStarting, 1), r.find(msgOpened, 1), r.find(msgShutdown, 1)
	if starting["client"] != c.LocalAddr().String() || starting["waiting"] != 1.0 {
		t.Errorf("starting: %v", starting)
	}
	for _, e := range []struct {
		line map[string]any
		key  string
	}{{opened, "took"}, {closed, "uptime"}} {
		text, _ := e.line[e.key].(string)
		if d, err := time.ParseDuration(text); err != nil || d <= 0 || len(text) > 8 {
			t.Errorf("%s is %q", e.key, e.line[e.key])
		}
	}
	if opened["pid"] == nil || opened["pid"] != closed["pid"] {
		t.Errorf("opened %v, closed %v: different processes", opened, closed)
	}
	if shutdown["reason"] != "idle" || closed["status"] != "exit status 0" || closed["level"] != "INFO" {
		t.Errorf("shutdown %v, closed %v", shutdown, closed)
	}
	r.signal(syscall.SIGTERM)
	r.exits(exitStopped)
	if strings.Contains(r.stderr.text(), "canary") {
		t.Error("the child's environment is in the log")
	}
}

func TestRun_DebugShowsArgumentsAndConnections(t *testing.T) {
	t.Parallel()
	r := start(t, nil, append(serving(t, "serves", "--idle", "50ms", "--log-level", "debug"), "word")...)
	if e := r.logged("command", 1); !strings.HasSuffix(fmt.Sprint(e["args"]), "word]") || e["program"] != self() {
		t.Errorf("command: %v", e)
	}
	c := r.dial()
	says(t, c, "hello")
	c.Close()
	if e := r.logged("connection", 1); e["up"] != 5.0 || e["down"] != 5.0 {
		t.Errorf("connection: %v", e)
	}
}

func TestRun_FailedStartNamesEverything(t *testing.T) {
	t.Parallel()
	r := start(t, nil, serving(t, "fails")...)
	c := r.dial()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client was told %v, want a reset", err)
	}
	e := r.logged(msgStartFailed, 1)
	if e["program"] != self() || e["status"] != "exit status 3" || !strings.Contains(fmt.Sprint(e["output"]), "no more luck") || e["level"] != "ERROR" {
		t.Errorf("start failed: %v", e)
	}
	r.logged(msgClosed, 1)
	r.signal(syscall.SIGTERM)
	r.exits(exitStopped)
}

func TestRun_ChildThatCannotBeStarted(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	script := filepath.Join(dir, "script")
	must(t, os.WriteFile(script, []byte("#!/no/such/interpreter\n"), 0o755))
	r := start(t, nil, "--bind", "127.0.0.1:0", "--dest", "unix:"+dir+"/s", "--exec", script)
	// It fails so soon that the reset may come before connect(2) has returned.
	c, err := net.Dial("tcp", r.address())
	if err == nil {
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(bound)))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client was told %v, want a reset", err)
	}
	if e := r.logged(msgStartFailed, 1); e["program"] != script || !strings.Contains(fmt.Sprint(e["err"]), "/no/such/interpreter") {
		t.Errorf("start failed: %v", e)
	}
}

func TestRun_TextLog(t *testing.T) {
	t.Parallel()
	r := start(t, nil, serving(t, "serves", "--log-format", "text")...)
	listening := regexp.MustCompile(`(?m)^time=\S+ level=INFO msg=listening bind=127\.0\.0\.1:[1-9]\d* dest=unix:\S+`)
	if !poll(func() bool { return listening.MatchString(r.stderr.text()) }) {
		t.Errorf("log: %s", r.stderr.text())
	}
	r.signal(syscall.SIGTERM)
	r.exits(exitStopped)
}

func TestRun_Statistics(t *testing.T) {
	t.Parallel()
	r := start(t, nil, serving(t, "serves")...)
	says(t, r.dial(), "hello")
	r.signal(syscall.SIGUSR1)
	e := r.logged(msgStatistics, 1)
	if e["state"] != "opened" || e["connections"] != 1.0 || e["starts"] != 1.0 || e["served"] != 1.0 {
		t.Errorf("statistics: %v", e)
	}
	says(t, r.dial(), "still there")
}

func TestStop_WithoutAChild(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		r := start(t, nil, serving(t, "serves")...)
		r.address()
		r.signal(sig)
		r.exits(exitStopped)
		if e := r.logged(msgStopping, 1); e["connections"] != 0.0 || !strings.Contains(fmt.Sprint(e["hint"]), "second signal") {
			t.Errorf("stopping: %v", e)
		}
		r.logged(msgStopped, 1)
	}
}

func TestStop_HangupStaysIgnored(t *testing.T) {
	t.Parallel()
	line := append([]string{"-c", `trap "" HUP; exec "$0" "$@"`, self()}, serving(t, "serves")...)
	r := startCmd(t, nil, exec.Command("/bin/sh", line...))
	says(t, r.dial(), "hello")
	r.signal(syscall.SIGHUP)
	// The next signal is handled after this one.
	r.signal(syscall.SIGUSR1)
	r.logged(msgStatistics, 1)
	says(t, r.dial(), "still there")
	if r.find(msgStopping, 1) != nil {
		t.Error("SIGHUP stops tiproxy although it was ignored at start")
	}
}

func TestStop_LetsConnectionsFinish(t *testing.T) {
	t.Parallel()
	r := start(t, nil, serving(t, "serves", "--drain-timeout", "1h")...)
	c := r.dial()
	says(t, c, "before")
	r.signal(syscall.SIGTERM)
	if e := r.logged(msgStopping, 1); e["connections"] != 1.0 || e["drain_timeout"] != "1h0m0s" {
		t.Errorf("stopping: %v", e)
	}
	if _, err := net.Dial("tcp", r.address()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a new client gets %v, want refused", err)
	}
	says(t, c, "after")
	c.Close()
	r.exits(exitStopped)
}

func TestStop_DrainTimeoutEndsThem(t *testing.T) {
	t.Parallel()
	for _, timeout := range []string{"0", "50ms"} {
		r := start(t, nil, serving(t, "serves", "--drain-timeout", timeout)...)
		c := r.dial()
		says(t, c, "before")
		r.signal(syscall.SIGTERM)
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client reads %v", err)
		}
		r.exits(exitStopped)
	}
}

func TestStop_SecondSignalEndsItNow(t *testing.T) {
	t.Parallel()
	r := start(t, nil, serving(t, "stubborn", "--drain-timeout", "1h", "--stop-timeout", "1h")...)
	c := r.dial()
	says(t, c, "hello")
	r.signal(syscall.SIGTERM)
	r.logged(msgStopping, 1)
	says(t, c, "still carried")
	r.signal(syscall.SIGINT)
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reads %v, want a reset", err)
	}
	r.exits(exitStopped)
	if e := r.logged(msgClosed, 1); e["status"] != "signal: killed" {
		t.Errorf("closed: %v", e)
	}
}

func TestStop_SecondSignalHurriesTheChildsStop(t *testing.T) {
	t.Parallel()
	r := start(t, nil, serving(t, "stubborn", "--drain-timeout", "0", "--stop-timeout", "1h")...)
	c := r.dial()
	says(t, c, "hello")
	r.signal(syscall.SIGTERM)
	r.logged(msgShutdown, 1)
	says(t, c, "carried for as long as the child lives")
	r.signal(syscall.SIGTERM)
	r.exits(exitStopped)
}

func TestOutput_NobodyReadsIt(t *testing.T) {
	t.Parallel()
	cmd := command(serving(t, "floods", "--idle", "50ms")...)
	read, write, err := os.Pipe()
	must(t, err)
	cmd.Stdout = write
	r := startCmd(t, nil, cmd)
	write.Close()
	read.Close()
	for range 2 {
		c := r.dial()
		says(t, c, "hello")
		c.Close()
	}
	r.signal(syscall.SIGTERM)
	r.exits(exitStopped)
}

func TestOutput_NobodyReadsTheLog(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	line := serving(t, "floods", "--bind", "unix:"+dir+"/bind")
	cmd := command(line...)
	read, write, err := os.Pipe()
	must(t, err)
	cmd.Stdout, cmd.Stderr = write, write
	r := startCmd(t, nil, cmd)
	write.Close()
	must(t, waitLine(read, "listening"))
	read.Close()
	for range 2 {
		c, err := net.Dial("unix", dir+"/bind")
		must(t, err)
		says(t, c, "hello")
		c.Close()
	}
	r.signal(syscall.SIGTERM)
	r.exits(exitStopped)
}

// waitLine reads until word has come.
func waitLine(f *os.File, word string) error {
	var all []byte
	buf := make([]byte, 1)
	for !bytes.Contains(all, []byte(word)) {
		if _, err := f.Read(buf); err != nil {
			return err
		}
		all = append(all, buf[0])
	}
	return nil
}

func TestOutput_StuckReaderLosesSomeAndIsTold(t *testing.T) {
	t.Parallel()
	cmd := command(serving(t, "floods")...)
	read, write, err := os.Pipe()
	must(t, err)
	defer read.Close()
	cmd.Stdout = write
	r := startCmd(t, nil, cmd)
	write.Close()
	says(t, r.dial(), "the child is not held up")
	go io.Copy(io.Discard, read)
	e := r.logged(msgDropped, 1)
	if n, _ := e["bytes"].(float64); e["stream"] != "stdout" || n < 1 {
		t.Errorf("output dropped: %v", e)
	}
	if !strings.Contains(r.stderr.text(), "a line without an end\n") {
		t.Error("the child's unfinished line runs into the log")
	}
}

func TestDemo(t *testing.T) {
	t.Parallel()
	r := start(t, nil, "demo", "--idle", "50ms")
	url := regexp.MustCompile(`curl (http://127\.0\.0\.1:\d+)\n`)
	if !poll(func() bool { return url.MatchString(r.stdout.text()) }) {
		t.Fatal("the demo does not say what to try")
	}
	client := &http.Client{Timeout: bound}
	defer client.CloseIdleConnections()
	for n := range 2 {
		res, err := client.Get(url.FindStringSubmatch(r.stdout.text())[1])
		must(t, err)
		page, err := io.ReadAll(res.Body)
		must(t, err)
		if !strings.HasPrefix(string(page), "Hello from process ") || !strings.Contains(string(page), "You are client 1 ") {
			t.Errorf("page: %s", page)
		}
		if !poll(func() bool { return strings.Count(r.stdout.text(), "asleep") == n+1 }) {
			t.Fatal("the demo's server does not end")
		}
	}
	r.signal(syscall.SIGINT)
	r.exits(exitStopped)
	rest := r.stdout.text()
	for _, word := range []string{"starting", "ready", "served", "idle", "asleep", "starting", "ready", "served", "asleep", "stopping", "stopped", "2 clients in 2 starts"} {
		_, behind, found := strings.Cut(rest, word)
		if !found {
			t.Errorf("%q is missing in its place:\n%s", word, r.stdout.text())
		}
		rest = behind
	}
	if strings.Contains(r.stdout.text(), "\x1b") {
		t.Error("colours without a terminal")
	}
}

// A child that hangs has often said why.
func TestRun_StartTimeoutShowsWhatTheChildSaid(t *testing.T) {
	t.Parallel()
	dest := "unix:" + shortDir(t) + "/s"
	r := start(t, nil, "--bind", "127.0.0.1:0", "--dest", dest, "--exec", "/bin/sh", "--start-timeout", "1s",
		"--", "-c", "echo no config here >&2; exec sleep 100")
	if _, err := r.dial().Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client was told %v, want a reset", err)
	}
	e := r.logged(msgStartFailed, 1)
	if !strings.Contains(fmt.Sprint(e["output"]), "no config here") || !strings.Contains(fmt.Sprint(e["hint"]), "it had 1s") {
		t.Errorf("start failed: %v", e)
	}
	r.logged(msgClosed, 1)
}
