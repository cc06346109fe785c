package admin_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tiproxy/internal/admin"
)

// request asks over TCP with what a test wants to be in the header.
func request(t *testing.T, at admin.Target, method, path string, header map[string]string) (status int, p admin.Problem) {
	t.Helper()
	r, err := http.NewRequestWithContext(briefly(t), method, "http://"+at.Address+path, nil)
	must(t, err)
	for name, value := range header {
		r.Header.Set(name, value)
	}
	if host := header["Host"]; host != "" {
		r.Host = host
	}
	transport := &http.Transport{DisableKeepAlives: true}
	answer, err := transport.RoundTrip(r)
	must(t, err)
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		must(t, json.NewDecoder(answer.Body).Decode(&p))
	}
	if answer.StatusCode == http.StatusUnauthorized && answer.Header.Get("WWW-Authenticate") == "" {
		t.Error("401 without WWW-Authenticate")
	}
	return answer.StatusCode, p
}

func TestGuard_WhoMayAskOnTCP(t *testing.T) {
	w := newWorld("db")
	at, _ := w.onTCP(t)
	_, port, _ := net.SplitHostPort(at.Address)
	right := "Bearer " + token
	for name, c := range map[string]struct {
		method, path string
		header       map[string]string
		want         int
	}{
		"right":                   {"GET", "/api/v1/services", map[string]string{"Authorization": right}, 200},
		"right, by name":          {"GET", "/api/v1/services", map[string]string{"Authorization": right, "Host": "localhost:" + port}, 200},
		"scheme in small letters": {"GET", "/api/v1/services", map[string]string{"Authorization": "bearer " + token}, 200},
		"nothing":                 {"GET", "/api/v1/services", nil, 401},
		"nothing, health":         {"GET", "/healthz", nil, 401},
		"nothing, metrics":        {"GET", "/metrics", nil, 401},
		"nothing, no such path":   {"GET", "/secret", nil, 401},
		"a stream":                {"GET", "/api/v1/events", nil, 401},
		"an order":                {"POST", "/api/v1/services/db/stop", nil, 401},
		"empty":                   {"GET", "/api/v1/services", map[string]string{"Authorization": "Bearer "}, 401},
		"a part":                  {"GET", "/api/v1/services", map[string]string{"Authorization": right[:len(right)-1]}, 401},
		"more":                    {"GET", "/api/v1/services", map[string]string{"Authorization": right + "x"}, 401},
		"other scheme":            {"GET", "/api/v1/services", map[string]string{"Authorization": "Basic " + token}, 401},
		"in the query":            {"GET", "/api/v1/services?token=" + token, nil, 401},
		"rebound name":            {"GET", "/api/v1/services", map[string]string{"Authorization": right, "Host": "evil.example:" + port}, 421},
		"cross-site order":        {"POST", "/api/v1/services/db/stop", map[string]string{"Authorization": right, "Sec-Fetch-Site": "cross-site"}, 403},
		"order of another origin": {"POST", "/api/v1/services/db/stop", map[string]string{"Authorization": right, "Origin": "http://evil.example"}, 403},
		"order of our own origin": {"POST", "/api/v1/services/db/stop", map[string]string{"Authorization": right, "Origin": "http://" + at.Address}, 200},
		"order by GET":            {"GET", "/api/v1/services/db/stop", map[string]string{"Authorization": right}, 405},
	} {
		status, p := request(t, at, c.method, c.path, c.header)
		if status != c.want {
			t.Errorf("%s: %d %v, want %d", name, status, p, c.want)
		}
		if strings.Contains(p.Error(), token) {
			t.Errorf("%s: the answer has the token: %v", name, p)
		}
	}
	if len(w.orders) != 1 {
		t.Errorf("carried out: %q", w.orders)
	}
}

func TestServe_NeedsATokenOnTCP(t *testing.T) {
	w := newWorld()
	s := admin.New(admin.Config{Services: w, Program: w, Journal: w.journal})
	defer s.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	if err := s.Serve(l); !errors.Is(err, admin.ErrNoToken) {
		t.Errorf("got %v", err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the listener is open: %v", err)
	}
}

func TestCheckToken(t *testing.T) {
	for token, says := range map[string]string{
		"0123456789abcdef":   "",
		"0123456789abcde":    "15 characters",
		"":                   "0 characters",
		"0123456789 abcdef":  "a blank",
		"0123456789äbcdef":   "a blank",
		"0123456789\nabcdef": "a blank",
	} {
		err := admin.CheckToken(token)
		if (err == nil) != (says == "") || err != nil && (!strings.Contains(err.Error(), says) || token != "" && strings.Contains(err.Error(), token)) {
			t.Errorf("%q: %v", token, err)
		}
	}
}

func TestOwnHost(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.0.0.1:80": true, "[::1]:80": true, "[::1]": true, "[fe80::1%25lo]:80": true, "localhost:1": true,
		"LOCALHOST": true, "tiproxy.localhost": true, "192.0.2.1:80": true,
		"": false, "evil.example": false, "127.0.0.1.evil.example:80": false, "localhost.evil.example": false, "notlocalhost": false,
	} {
		if got := admin.OwnHost(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

func TestTrusted_RootAndOneself(t *testing.T) {
	for _, c := range []struct {
		uid, own int
		want     bool
	}{{0, 0, true}, {0, 1000, true}, {1000, 1000, true}, {1001, 1000, false}, {1000, 0, false}, {65534, 0, false}} {
		if got := admin.Trusted(c.uid, c.own); got != c.want {
			t.Errorf("user %d asks one of user %d: %v", c.uid, c.own, got)
		}
	}
}

// strangerName makes the test binary ask as somebody else.
const strangerName = "ADMIN_TEST_ASKS"

// stranger asks at the path and prints what it is told.
func stranger(path string) {
	err := admin.NewClient(admin.Target{Network: "unix", Address: path}).Get(contextOfStranger(), "/api/v1/version", nil)
	var p *admin.Problem
	if errors.As(err, &p) {
		os.Stdout.WriteString(http.StatusText(p.Status))
		return
	}
	if err != nil {
		os.Stdout.WriteString(err.Error())
	}
}

// A socket whose mode lets everybody in still answers nobody else.
func TestGuard_AnotherUserIsToldNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become somebody else")
	}
	at, _ := newWorld().onSocket(t)
	must(t, os.Chmod(at.Address, 0o666))
	must(t, os.Chmod(filepath.Dir(at.Address), 0o755))
	self, err := os.Executable()
	must(t, err)
	binary := filepath.Join(filepath.Dir(at.Address), "asks")
	must(t, os.Link(self, binary))
	for uid, want := range map[uint32]string{65534: "Forbidden", 0: ""} {
		cmd := exec.CommandContext(briefly(t), binary)
		cmd.Env = append(os.Environ(), strangerName+"="+at.Address)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("user %d: %q, %v, want %q", uid, out, err, want)
		}
	}
}
