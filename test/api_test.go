//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// apiService is what these tests look at of a service, as its users see it.
type apiService struct {
	Name        string `json:"name"`
	State       string `json:"state"`
	PID         int    `json:"pid"`
	Connections int    `json:"connections"`
	Starts      int    `json:"starts"`
	HeldUntil   string `json:"held_until"`
	ColdStarts  []struct {
		Who  string  `json:"who"`
		Took float64 `json:"took"`
		OK   bool    `json:"ok"`
	} `json:"cold_starts"`
	Seconds map[string]float64 `json:"seconds"`
}

// steer runs a command of tiproxy against the one at a socket.
func steer(t *testing.T, socket string, words ...string) string {
	t.Helper()
	return mustClient(t, "", append([]string{binary}, append(words, "--admin", "unix:"+socket)...)...)
}

// statusOf is what tiproxy status says of a service.
func statusOf(t *testing.T, socket, name string) (s apiService) {
	t.Helper()
	if err := json.Unmarshal([]byte(steer(t, socket, "status", name, "--json")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAPI_SteersEachServiceByItself(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(sharedDir(t), "admin")
	file := configFile(t, fmt.Sprintf(`
admin: unix:%[2]s
defaults: {idle: 100ms, drain-timeout: 300ms}
services:
  one: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: %[1]s, args: [role, echo, "127.0.0.1:{port}"]}
  two: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: %[1]s, args: [role, echo, "127.0.0.1:{port}"]}
`, self, socket))
	p := run(t, setup{line: []string{binary, "run", "--config", file}, allow: []string{"closed"}}) // one child is killed
	steer(t, socket, "hold", "one", "1h")
	if s := statusOf(t, socket, "one"); s.State != "opened" || s.PID == 0 || s.HeldUntil == "" || len(s.ColdStarts) != 1 || !s.ColdStarts[0].OK {
		t.Errorf("held: %+v", s)
	}
	two := dial(t, host(), p.bindOf("two"))
	mustAsk(t, two, "hello")
	two.Close()
	p.expect("closed") // two's, after its idle time
	if s := statusOf(t, socket, "two"); s.State != "closed" || s.Starts != 1 || s.Seconds["closed"] == 0 {
		t.Errorf("asleep: %+v", s)
	}
	held := statusOf(t, socket, "one")
	if held.State != "opened" || held.Starts != 1 {
		t.Errorf("held beyond its idle time: %+v", held)
	}

	// A child that is held is started again when it crashes.
	if err := syscall.Kill(held.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "started again", func() error {
		if s := statusOf(t, socket, "one"); s.State != "opened" || s.PID == held.PID {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})

	// A stop lets who is there finish; who comes meanwhile is served by the next one.
	first := dial(t, host(), p.bindOf("one"))
	was := mustAsk(t, first, "hello")
	if out := steer(t, socket, "stop", "one"); !strings.Contains(out, "one is ") {
		t.Errorf("stop said %q", out)
	}
	if s := statusOf(t, socket, "one"); s.HeldUntil != "" {
		t.Errorf("stopped and held: %+v", s)
	}
	next := dial(t, host(), p.bindOf("one"))
	if is := mustAsk(t, next, "hello"); is == was {
		t.Errorf("still served by %s", is)
	}
}

// A plain user's tiproxy is found without being told where, and by nobody else.
func TestAPI_PlainUserFindsHisOwn(t *testing.T) {
	t.Parallel()
	needRoot(t, "becoming somebody else")
	dir := sharedDir(t)
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	env := []string{"XDG_RUNTIME_DIR=" + dir, "TIPROXY_ADMIN="}
	file := configFile(t, fmt.Sprintf(`services: {db: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: %s, args: [role, echo, "127.0.0.1:{port}"]}}`, self))
	run(t, setup{line: append(append([]string{"setpriv"}, asNobody...), binary, "run", "--config", file), env: env})
	asker := append(append([]string{"env", env[0], "setpriv"}, asNobody...), binary, "status")
	if out := mustClient(t, "", asker...); !strings.Contains(out, "db    closed for ") {
		t.Errorf("status said %q", out)
	}
	socket := filepath.Join(dir, "tiproxy", "admin.sock")
	for path, want := range map[string]os.FileMode{socket: 0o600, filepath.Dir(socket): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want mode %o", path, info, err, want)
		}
	}
}
