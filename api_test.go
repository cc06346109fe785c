package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tiproxy/internal/admin"
)

// asked is a running tiproxy, and where it is asked.
type asked struct {
	*proxyRun
	at string // as --admin has it
}

// askable runs tiproxy with a child of that kind.
func askable(t *testing.T, kind string, flags ...string) *asked {
	t.Helper()
	at := "unix:" + filepath.Join(shortDir(t), "admin")
	a := &asked{start(t, nil, serving(t, kind, append([]string{"--admin", at}, flags...)...)...), at}
	a.logged(msgAdmin, 1)
	return a
}

// says runs a command and returns what it says, with the status that is right.
func (a *asked) says(status int, args ...string) string {
	a.t.Helper()
	r := start(a.t, []string{"TIPROXY_ADMIN=" + a.at}, args...)
	r.exits(status)
	return r.stdout.text() + strings.Join(r.said(), "")
}

// status is what status --json says.
func (a *asked) status() (s admin.Service) {
	a.t.Helper()
	must(a.t, json.Unmarshal([]byte(a.says(exitStopped, "status", "default", "--json")), &s))
	return s
}

func (a *asked) client() *admin.Client {
	c := admin.NewClient(admin.Target{Network: "unix", Address: strings.TrimPrefix(a.at, "unix:")})
	a.t.Cleanup(c.Close)
	return c
}

func TestCommands_SteerTheChild(t *testing.T) {
	t.Parallel()
	a := askable(t, "serves", "--idle", "50ms")
	if s := a.status(); s.State != admin.StateClosed || s.PID != 0 || s.Starts != 0 {
		t.Errorf("at first: %+v", s)
	}
	if said := a.says(exitStopped, "hold", "default", "1h"); !strings.HasPrefix(said, "default is opened and held until ") {
		t.Errorf("hold: %q", said)
	}
	s := a.status()
	if s.State != admin.StateOpened || s.PID == 0 || s.HeldUntil.IsZero() || len(s.ColdStarts) != 1 || !s.ColdStarts[0].OK {
		t.Errorf("held: %+v", s)
	}
	c := a.dial()
	says(t, c, "hello")
	c.Close()
	if said := a.says(exitStopped, "release", "default"); !strings.HasPrefix(said, "default is not held") {
		t.Errorf("release: %q", said)
	}
	a.logged(msgClosed, 1)
	if said := a.says(exitStopped, "start", "default"); said != "default is opened\n" && said != "default is shutdown\n" && said != "default is closed\n" {
		t.Errorf("start: %q", said) // it sleeps soon
	}
	a.logged(msgClosed, 2)
	a.says(exitStopped, "hold", "default", "1h")
	if said := a.says(exitStopped, "stop", "default"); said != "default is closed\n" {
		t.Errorf("stop: %q", said)
	}
	c = a.dial() // the next client wakes it
	says(t, c, "hello")
	if s := a.status(); s.State != admin.StateOpened || s.Connections != 1 || !s.HeldUntil.IsZero() || s.Starts != 4 {
		t.Errorf("woken: %+v", s)
	}
}

func TestCommands_StopDrains(t *testing.T) {
	t.Parallel()
	a := askable(t, "serves", "--drain-timeout", "10m")
	c := a.dial()
	says(t, c, "hello")
	stop := start(t, nil, "stop", "default", "--admin", a.at)
	if !poll(func() bool { return a.status().Draining == "asked for" }) {
		t.Fatal("the stop has not begun")
	}
	says(t, c, "still here")
	if a.find(msgShutdown, 1) != nil {
		t.Error("it was stopped with a connection open")
	}
	c.Close()
	stop.exits(exitStopped)
	a.logged(msgClosed, 1)
	if e := a.logged(msgShutdown, 1); e["reason"] != "asked for" {
		t.Errorf("%v", e)
	}
}

func TestCommands_FailedStart(t *testing.T) {
	t.Parallel()
	a := askable(t, "fails")
	said := a.says(exitFailed, "start", "default")
	if !strings.Contains(said, `exit status 3; it printed last: "no more luck"`) || !strings.Contains(said, "tiproxy logs default") {
		t.Errorf("start: %q", said)
	}
	if said := a.says(exitFailed, "hold", "default", "1h"); !strings.Contains(said, "could not be started") {
		t.Errorf("hold: %q", said)
	}
	a.logged(msgClosed, 2)
	if s := a.status(); s.Failures != 2 || s.LastError == nil || s.LastError.Error != "exit status 3" || len(s.LastError.Lines) != 2 || !s.HeldUntil.IsZero() {
		t.Errorf("%+v", s)
	}
	if said := a.says(exitStopped, "status"); !strings.Contains(said, "failed: exit status 3") {
		t.Errorf("status: %q", said)
	}
	if said := a.says(exitStopped, "logs", "default"); said != strings.Repeat("first line\nno more luck\n", 2) {
		t.Errorf("logs: %q", said)
	}
}

func TestCommands_FollowWhatHappens(t *testing.T) {
	t.Parallel()
	a := askable(t, "prints")
	watch := start(t, nil, "status", "--watch", "--admin", a.at)
	logs := start(t, nil, "logs", "-f", "default", "--json", "--admin", a.at)
	shows := func(r *proxyRun, word string) {
		t.Helper()
		if !poll(func() bool { return strings.Contains(r.stdout.text(), word) }) {
			t.Fatalf("%q does not show up: %s", word, r.stdout.text())
		}
	}
	shows(watch, "closed for")
	c := a.dial()
	says(t, c, "hello")
	shows(watch, "opened for")
	shows(logs, `"stream":"stdout"`)
	c.Close()
	a.signal(syscall.SIGTERM)
	a.exits(exitStopped)
	for _, r := range []*proxyRun{watch, logs} {
		r.exits(exitFailed)
		if !strings.Contains(r.stderr.text(), "has ended") {
			t.Errorf("%q: %s", r.cmd.Args[1:], r.stderr.text())
		}
	}
}

// Streams do not hold up the end, and are told of it.
func TestAPI_StreamsEndWithTiproxy(t *testing.T) {
	t.Parallel()
	a := askable(t, "serves")
	s, err := a.client().Stream(t.Context(), "/api/v1/events", "")
	must(t, err)
	defer s.Close()
	var kinds []string
	a.signal(syscall.SIGTERM)
	for {
		m, err := s.Next()
		if err != nil {
			break
		}
		kinds = append(kinds, m.Kind)
	}
	a.exits(exitStopped)
	if got := strings.Join(kinds, " "); !strings.Contains(got, admin.KindStopping) {
		t.Errorf("events: %s", got)
	}
}

func TestAPI_OnTCPWithAToken(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte("a-token-of-sixteen\n"), 0o600))
	r := start(t, []string{"TIPROXY_ADMIN_TOKEN_FILE=" + file}, serving(t, "serves", "--admin", "127.0.0.1:0")...)
	at := r.logged(msgAdmin, 1)["at"].(string)
	if strings.Contains(r.stderr.text(), "a-token") {
		t.Error("the token is in the log")
	}
	healthcheck(t, nil, "--admin", at, "--admin-token-file", file).exits(exitStopped)
	other := filepath.Join(t.TempDir(), "other")
	must(t, os.WriteFile(other, []byte("another-of-sixteen"), 0o600))
	h := healthcheck(t, nil, "--admin", at, "--admin-token-file", other)
	h.exits(exitFailed)
	if !strings.Contains(h.stderr.text(), "401: the token is missing or wrong") {
		t.Errorf("stderr: %s", h.stderr.text())
	}
	answer, err := http.Get("http://" + at + "/healthz")
	must(t, err)
	defer answer.Body.Close()
	if line, _ := bufio.NewReader(answer.Body).ReadString('\n'); answer.StatusCode != http.StatusUnauthorized || !strings.Contains(line, `"error"`) {
		t.Errorf("without a token: %d %s", answer.StatusCode, line)
	}
}

// A file's services are asked about at the usual place, by a plain user's
// tiproxy below XDG_RUNTIME_DIR, and where TIPROXY_ADMIN says.
func TestRun_HasAnAdminSocketByItself(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	file := filepath.Join(dir, "t.yaml")
	must(t, os.WriteFile(file, []byte(fmt.Sprintf("services: {db: {bind: '127.0.0.1:0', dest: 'unix:%s/d', exec: '%s'}}\n", dir, self())), 0o600))
	env := []string{"TIPROXY_ADMIN=unix:" + filepath.Join(dir, "here")}
	r := start(t, env, "run", "--config", file)
	r.logged(msgAdmin, 1)
	status := start(t, env, "status")
	status.exits(exitStopped)
	if !strings.Contains(status.stdout.text(), "db ") {
		t.Errorf("status: %q", status.stdout.text())
	}
	off := start(t, []string{"TIPROXY_ADMIN=off"}, "run", "--config", file)
	off.address()
	if off.find(msgAdmin, 1) != nil {
		t.Error("off is not off")
	}
	if got := usualAdmin(); got.at.Network != "" && !strings.HasSuffix(got.at.Path, "/tiproxy/admin.sock") {
		t.Errorf("the usual place: %v", got)
	}
}

// wrongQuestions are command lines and what is said about them.
var wrongQuestions = []struct {
	line []string
	says string
}{
	{[]string{"status", "a", "b"}, `leftover word "b": write tiproxy status [NAME]`},
	{[]string{"start"}, "write tiproxy start NAME"},
	{[]string{"stop", "a", "b"}, `leftover word "b"`},
	{[]string{"hold", "db"}, "write tiproxy hold NAME DURATION"},
	{[]string{"hold", "db", "5"}, `"5" is no time to hold`},
	{[]string{"hold", "db", "0"}, `"0" is no time to hold`},
	{[]string{"reload", "now"}, `leftover word "now"`},
	{[]string{"reload", "--", "now"}, `leftover word "now"`},
	{[]string{"status", "--admin", "off"}, "--admin is off"},
	{[]string{"status", "--admin", "127.0.0.1:1"}, "add --admin-token-file FILE"},
	{[]string{"status", "--admin", "127.0.0.1:1", "--admin-token-file", "/dev/null"}, "the token in /dev/null has 0 characters"},
	{[]string{"status", "--admin", "127.0.0.1:1", "--admin-token-file", "/no/such"}, "--admin-token-file: open /no/such: no such file"},
	{[]string{"statsu"}, "did you mean tiproxy status?"},
	{[]string{"status", "--wach"}, "did you mean --watch?"},
	{[]string{"--dest", "127.0.0.1:3000", "--exec", "sh", "status"}, `if "status" is for the child, put -- in front of it`},
	{[]string{"--dest", "127.0.0.1:3000", "--exec", "sh", "start", "now"}, `if "start" is for the child, put -- in front of it`},
	{[]string{"--dest", "127.0.0.1:3000", "--exec", "no-such-status", "--", "status"}, `"no-such-status" not found`},
	{[]string{"--dest", "127.0.0.1:3000", "--exec", "status"}, `--exec: "status" not found`},
}

func TestCommands_WrongOnesSayWhatWouldBeRight(t *testing.T) {
	t.Parallel()
	env := []string{"TIPROXY_ADMIN=unix:" + filepath.Join(shortDir(t), "nobody")}
	for _, c := range wrongQuestions {
		r := start(t, env, c.line...)
		r.exits(exitUsage)
		if !strings.Contains(r.stderr.text(), c.says) {
			t.Errorf("%q: %q does not say %q", c.line, r.stderr.text(), c.says)
		}
	}
	for _, line := range [][]string{{"status"}, {"start", "db"}, {"logs", "db"}, {"status", "--watch"}} {
		r := start(t, env, line...)
		r.exits(exitFailed)
		if !strings.Contains(r.stderr.text(), "is tiproxy running, with --admin unix:") {
			t.Errorf("%q: %q", line, r.stderr.text())
		}
	}
}
