package dashboard

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// bound is how long a test waits for something that is sure to come.
const bound = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// api answers with what it was asked for.
var api = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Method, " ", r.URL.RequestURI()) })

// ask asks a handler as a browser does that shows a page of 127.0.0.1:4000.
func ask(t *testing.T, h http.Handler, method, target string, header map[string]string, cookies ...*http.Cookie) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, nil)
	r.Host = "127.0.0.1:4000"
	for name, value := range header {
		r.Header.Set(name, value)
	}
	if host := header["Host"]; host != "" {
		r.Host = host
	}
	for _, c := range cookies {
		r.AddCookie(c)
	}
	out := httptest.NewRecorder()
	h.ServeHTTP(out, r)
	return out.Result()
}

func text(t *testing.T, r *http.Response) string {
	t.Helper()
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// enter opens a door by its address.
func enter(t *testing.T, h http.Handler, word string) *http.Cookie {
	t.Helper()
	r := ask(t, h, "GET", "/?token="+word, nil)
	if r.StatusCode != http.StatusSeeOther || r.Header.Get("Location") != "/" || len(r.Cookies()) != 1 {
		t.Fatalf("not let in: %s", text(t, r))
	}
	return r.Cookies()[0]
}

func TestDoor_TheAddressWorksOnce(t *testing.T) {
	d, word := OpeningOnce()
	h := handler(d, api)
	for _, early := range []struct {
		method string
		header map[string]string
		token  string
		want   int
	}{
		{"HEAD", nil, word, http.StatusServiceUnavailable},
		{"GET", map[string]string{"Sec-Purpose": "prefetch;prerender"}, word, http.StatusServiceUnavailable},
		{"GET", nil, word[1:], http.StatusForbidden},
		{"GET", nil, "", http.StatusForbidden},
	} {
		if r := ask(t, h, early.method, "/?token="+early.token, early.header); r.StatusCode != early.want || len(r.Cookies()) > 0 {
			t.Errorf("%v: %s", early, text(t, r))
		}
	}
	c := enter(t, h, word)
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.Value == word {
		t.Errorf("the cookie: %v", c)
	}
	again := ask(t, h, "GET", "/?token="+word, nil)
	if said := text(t, again); again.StatusCode != http.StatusForbidden || len(again.Cookies()) > 0 || !strings.Contains(said, "Run the command again") || strings.Contains(said, word) {
		t.Errorf("the second time: %s", said)
	}
	if r := ask(t, h, "GET", "/api/v1/services", nil, c); r.StatusCode != http.StatusOK {
		t.Errorf("with the cookie: %s", text(t, r))
	}
}

func TestDoor_OpensOneTimeUnderLoad(t *testing.T) {
	d, word := OpeningOnce()
	const many = 20
	let := make(chan int, many)
	for range many {
		go func() { let <- ask(t, d, "GET", "/?token="+word, nil).StatusCode }()
	}
	in := 0
	for range many {
		if <-let == http.StatusSeeOther {
			in++
		}
	}
	if in != 1 {
		t.Errorf("%d were let in", in)
	}
}

func TestHandler_OnlyWhoWasLetInAndOnlyWhatThePageNeeds(t *testing.T) {
	d, word := OpeningOnce()
	h := handler(d, api)
	c := enter(t, h, word)
	const one = "/api/v1/services/db"
	other := &http.Cookie{Name: c.Name, Value: c.Value[1:]}
	for _, x := range []struct {
		method, path string
		header       map[string]string
		cookie       *http.Cookie
		want         int
	}{
		{"GET", "/api/v1/services", nil, c, 200},
		{"GET", one, nil, c, 200},
		{"GET", "/api/v1/services/a%2Fb", nil, c, 200},
		{"GET", one + "/connections?limit=50", nil, c, 200},
		{"GET", one + "/output", nil, c, 200},
		{"GET", "/api/v1/events?history=0", nil, c, 200},
		{"GET", "/api/v1/groups", nil, c, 200},
		{"POST", one + "/start", nil, c, 200},
		{"POST", one + "/hold?for=2h", nil, c, 200},
		{"POST", one + "/release", map[string]string{"Origin": "http://127.0.0.1:4000", "Sec-Fetch-Site": "same-origin"}, c, 200},

		{"GET", "/api/v1/services", nil, nil, 401},
		{"GET", "/api/v1/events", nil, other, 401},
		{"POST", one + "/stop", nil, nil, 401},
		{"GET", "/secret", nil, nil, 401},
		{"GET", "/api/v1/services", map[string]string{"Authorization": "Bearer " + word}, nil, 401},
		{"GET", "/api/v1/services?token=" + word, nil, nil, 401},

		{"POST", "/api/v1/reload", nil, c, 404},
		{"GET", "/metrics", nil, c, 404},
		{"GET", one + "/stop", nil, c, 404},
		{"PUT", one + "/stop", nil, c, 404},
		{"GET", one + "/../../reload", nil, c, 404},
		{"POST", "/api/v1/services/%2e%2e/reload/start/", nil, c, 404},

		{"POST", one + "/stop", map[string]string{"Sec-Fetch-Site": "cross-site"}, c, 403},
		{"POST", one + "/stop", map[string]string{"Sec-Fetch-Site": "same-site"}, c, 403}, // another port of this machine
		{"POST", one + "/stop", map[string]string{"Origin": "http://evil.example"}, c, 403},
		{"POST", one + "/stop", map[string]string{"Origin": "http://127.0.0.1:4001"}, c, 403},
		{"POST", one + "/stop", map[string]string{"Origin": "null"}, c, 403},
		{"POST", "/login", map[string]string{"Sec-Fetch-Site": "cross-site"}, nil, 403},
		{"GET", "/api/v1/services", map[string]string{"Sec-Fetch-Site": "same-site"}, c, 401},

		{"GET", "/", map[string]string{"Host": "evil.example:4000"}, c, 421},
		{"GET", "/api/v1/services", map[string]string{"Host": "evil.example"}, c, 421},
		{"POST", one + "/stop", map[string]string{"Host": "127.0.0.1.evil.example"}, c, 421},
		{"GET", "/", map[string]string{"Host": "192.0.2.1:4000"}, c, 421},
		{"GET", "/", map[string]string{"Host": "localhost:9"}, nil, 200}, // a tunnel
		{"GET", "/", map[string]string{"Host": "[::1]:4000"}, nil, 200},
	} {
		var cookies []*http.Cookie
		if x.cookie != nil {
			cookies = append(cookies, x.cookie)
		}
		r := ask(t, h, x.method, x.path, x.header, cookies...)
		if r.StatusCode != x.want {
			t.Errorf("%s %s %v, cookie %v: want %d:\n%s", x.method, x.path, x.header, x.cookie != nil, x.want, text(t, r))
		}
	}
}

func TestHandler_EveryAnswerHasThePolicy(t *testing.T) {
	d, word := OpeningOnce()
	h := handler(d, api)
	c := enter(t, h, word)
	for _, path := range []string{"/", "/index.html", "/dashboard.js", "/dashboard.css", "/icon.svg", "/?token=x", "/login", "/api/v1/services", "/secret"} {
		r := ask(t, h, "GET", path, nil, c)
		for name, want := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
			"X-Frame-Options": "DENY", "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		if r.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s lets other origins read", path)
		}
	}
}

func TestPage_IsOfOnePieceAndPlain(t *testing.T) {
	d := Opening("a word")
	inline := regexp.MustCompile(`(?i)<script(?:[^>]*)>[^<]|<style|\sstyle=|\son[a-z]+=|javascript:`)
	markup := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function`)
	elsewhere := regexp.MustCompile(`(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}`)
	link := regexp.MustCompile(`(?:src|href|action)="(/[^"]*)"|from "\.(/[^"]*)"`)
	for name, file := range d.assets {
		body := string(file.body)
		if file.kind == "" {
			t.Errorf("%s has no type", name)
		}
		if found := inline.FindString(body); found != "" && strings.Contains(file.kind, "html") {
			t.Errorf("%s: the policy forbids %q", name, found)
		}
		if found := markup.FindString(body); found != "" {
			t.Errorf("%s: %s makes markup of text", name, found)
		}
		if found := elsewhere.FindString(strings.ReplaceAll(body, "http://www.w3.org/2000/svg", "")); found != "" {
			t.Errorf("%s leads to %s", name, found)
		}
		for _, m := range link.FindAllStringSubmatch(body, -1) {
			if to := m[1] + m[2]; !d.Serves(to) {
				t.Errorf("%s: there is no %s", name, to)
			}
		}
	}
	list, err := fs.ReadDir(files, "page")
	if err != nil || len(d.assets) != len(list)+1 {
		t.Errorf("%d files, and %d answers: %v", len(list), len(d.assets), err)
	}
	if !strings.Contains(string(d.assets["/"].body), `data-entry="form"`) {
		t.Error("the page does not know how to get in")
	}
}

func TestDoor_TheForm(t *testing.T) {
	const word = "0123456789abcdef"
	d := Opening(word)
	post := func(path, token string) *http.Response {
		r := httptest.NewRequestWithContext(t.Context(), "POST", path, strings.NewReader(url.Values{"token": {token}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		out := httptest.NewRecorder()
		d.ServeHTTP(out, r)
		return out.Result()
	}
	for _, wrong := range []string{"", word[1:], word + "0", strings.Repeat("x", 2*wordBytes)} {
		if r := post("/login", wrong); r.Header.Get("Location") != "/?wrong" || len(r.Cookies()) > 0 {
			t.Errorf("%.20q: %s", wrong, text(t, r))
		}
	}
	var c *http.Cookie
	for range 2 { // as often as one likes
		r := post("/login", word+"\n")
		if r.StatusCode != http.StatusSeeOther || r.Header.Get("Location") != "/" || len(r.Cookies()) != 1 {
			t.Fatalf("not let in: %s", text(t, r))
		}
		c = r.Cookies()[0]
	}
	r := httptest.NewRequest("GET", "/api/v1/services", nil)
	r.AddCookie(c)
	if !d.Admits(r) {
		t.Error("the cookie does not open")
	}
	if left := post("/logout", "").Cookies(); len(left) != 1 || left[0].MaxAge >= 0 || left[0].Name != c.Name {
		t.Errorf("logging out: %v", left)
	}
	if r := ask(t, d, "GET", "/?token="+word, nil); r.StatusCode != http.StatusOK || len(r.Cookies()) > 0 {
		t.Errorf("the token in the address: %s", text(t, r))
	}
	once, onceWord := OpeningOnce()
	d = once
	if r := post("/login", onceWord); len(r.Cookies()) > 0 {
		t.Errorf("a word for the address opens by the form: %s", text(t, r))
	}
}

func TestServe_EndsWithItsContextAndItsStreams(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d, word := OpeningOnce()
	begun := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, l, d, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			close(begun)
			<-r.Context().Done()
		}))
	}()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	request := func(path string) *http.Response {
		within, stop := context.WithTimeout(t.Context(), bound)
		t.Cleanup(stop)
		r, err := http.NewRequestWithContext(within, "GET", "http://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.AddCookie(d.baked(d.key, 0))
		got, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { got.Body.Close() })
		return got
	}
	if got := request("/?token=" + word); got.StatusCode != http.StatusSeeOther {
		t.Errorf("not let in: %d", got.StatusCode)
	}
	stream := request("/api/v1/events")
	<-begun
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(bound):
		t.Fatal("it did not end")
	}
	if _, err := stream.Body.Read(make([]byte, 1)); err == nil {
		t.Error("the stream goes on")
	}
}
