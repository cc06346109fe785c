package admin_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"tiproxy/internal/admin"
)

// page is one that lets in whoever has its cookie, to look at services.
type page struct{}

func (page) ServeHTTP(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the page") }

func (page) Serves(path string) bool { return path == "/" }

func (page) Admits(r *http.Request) bool {
	_, err := r.Cookie("in")
	return err == nil && r.URL.Path == "/api/v1/services"
}

// withPage has a world answer with a page in front.
func (w *world) withPage(t *testing.T, l net.Listener) {
	t.Helper()
	s := admin.New(admin.Config{Services: w, Program: w, Journal: w.journal, Token: token, Page: page{}, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(s.Close)
	must(t, s.Serve(l))
}

func TestPage_IsForEverybodyAndOpensWhatItAdmits(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	newWorld("db").withPage(t, l)
	at := admin.Target{Network: "tcp", Address: l.Addr().String()}
	for name, c := range map[string]struct {
		path   string
		header map[string]string
		want   int
	}{
		"the page":            {"/", nil, 200},
		"admitted":            {"/api/v1/services", map[string]string{"Cookie": "in=1"}, 200},
		"not admitted":        {"/api/v1/services", nil, 401},
		"not what it needs":   {"/metrics", map[string]string{"Cookie": "in=1"}, 401},
		"the page, rebound":   {"/", map[string]string{"Host": "evil.example"}, 421},
		"rebound, and let in": {"/api/v1/services", map[string]string{"Cookie": "in=1", "Host": "evil.example"}, 421},
	} {
		if status, p := request(t, at, "GET", c.path, c.header); status != c.want {
			t.Errorf("%s: %d %v, want %d", name, status, p, c.want)
		}
	}
}

func TestPage_IsNotOnTheSocket(t *testing.T) {
	path := socketPath(t)
	l, err := admin.Listen(briefly(t), path)
	must(t, err)
	newWorld("db").withPage(t, l)
	at := admin.Target{Network: "unix", Address: path}
	if p, ok := client(t, at).Get(briefly(t), "/", nil).(*admin.Problem); !ok || p.Status != http.StatusNotFound {
		t.Errorf("got %v", p)
	}
}

// What a browser says about itself is no business of the API's.
func TestClient_PassesOnAsItsOwn(t *testing.T) {
	w := newWorld("db")
	at, s := w.onTCP(t)
	front := httptest.NewServer(client(t, at))
	defer front.Close()
	ask := func(method, path string) (int, string) {
		r, err := http.NewRequestWithContext(briefly(t), method, front.URL+path, nil)
		must(t, err)
		for name, value := range map[string]string{"Authorization": "Bearer x", "Cookie": "a=b", "Origin": "http://a.example", "Sec-Fetch-Site": "same-origin"} {
			r.Header.Set(name, value)
		}
		r.Host = "a.example"
		transport := &http.Transport{DisableKeepAlives: true}
		got, err := transport.RoundTrip(r)
		must(t, err)
		defer got.Body.Close()
		body, err := io.ReadAll(got.Body)
		must(t, err)
		return got.StatusCode, string(body)
	}
	if status, body := ask("GET", "/api/v1/services"); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	if status, body := ask("POST", "/api/v1/services/db/hold?for=1h"); status != 200 || len(w.orders) != 1 || w.orders[0] != "hold db 1h0m0s" {
		t.Errorf("%d %s: %q", status, body, w.orders)
	}
	if status, body := ask("POST", "/api/v1/services/a%2Fb/stop"); status != 404 {
		t.Errorf("%d %s", status, body)
	}
	w.output.say("a line")
	if status, body := ask("GET", "/api/v1/services/db/output?follow=0"); status != 200 || body == "" {
		t.Errorf("%d %q", status, body)
	}
	s.Close()
	if status, body := ask("GET", "/api/v1/services"); status != http.StatusBadGateway {
		t.Errorf("%d %s", status, body)
	}
}
