//go:build linux

package probe

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// errOver is why the waits of these tests end.
var errOver = errors.New("the test is over")

// asking returns an HTTP that asks url.
func asking(t *testing.T, rawURL string) *HTTP {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	return &HTTP{URL: u}
}

// answers makes a server. It is closed, with its connections, when the test ends.
func answers(t *testing.T, handle http.HandlerFunc) (rawURL string) {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL
}

// speaks makes a server that says something to everybody, whatever it is asked.
// With hold, it keeps the connection open then.
func speaks(t *testing.T, text string, hold bool) (rawURL string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	over := make(chan struct{})
	t.Cleanup(func() { ln.Close(); close(over); all.Wait() })
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, text)
				if hold {
					<-over
				}
			})
		}
	})
	return "http://" + ln.Addr().String()
}

// waitFor is Wait for a while, and fails the test if it goes on behind that.
func waitFor(t *testing.T, h *HTTP, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, errOver)
	defer cancel()
	began := time.Now()
	err := h.Wait(ctx)
	if late := time.Since(began) - d; late > bound/10 {
		t.Errorf("Wait went on for %v after its context's end", late)
	}
	return err
}

func TestHTTPIsReadyWhenTheAnswerIsGood(t *testing.T) {
	sameDescriptors(t)
	for code, good := range map[int]bool{200: true, 204: true, 299: true, 301: true, 399: true, 400: false, 404: false, 503: false, 600: false} {
		var asked atomic.Int32
		u := answers(t, func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(code)
		})
		h := asking(t, u+"/health")
		if good {
			if err := waitFor(t, h, bound); err != nil || asked.Load() != 1 {
				t.Errorf("status %d: %v after %d requests, want it ready after one", code, err, asked.Load())
			}
			continue
		}
		err := waitFor(t, h, 10*short)
		if !errors.Is(err, errOver) || !strings.Contains(err.Error(), u+"/health answers "+status(code)) || asked.Load() < 2 {
			t.Errorf("status %d: %v after %d requests", code, err, asked.Load())
		}
	}
}

func TestHTTPBecomesReady(t *testing.T) {
	var asked atomic.Int32
	u := answers(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 4 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	if err := waitFor(t, asking(t, u), bound); err != nil || asked.Load() != 4 {
		t.Errorf("%v after %d requests, want it ready with the fourth", err, asked.Load())
	}
}

func TestHTTPRequest(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	seen := make(chan *http.Request, 1)
	u := answers(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r })
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(u, "http://"))
	if err := waitFor(t, asking(t, "http://me:secret@localhost:"+port+"/a%20b?c=d"), bound); err != nil {
		t.Fatal(err)
	}
	r := <-seen
	if r.Method != http.MethodGet || r.RequestURI != "/a%20b?c=d" || r.Host != "localhost:"+port || r.UserAgent() != userAgent || !r.Close {
		t.Errorf("%s %s of host %s by %s, close %v", r.Method, r.RequestURI, r.Host, r.UserAgent(), r.Close)
	}
	if name, password, ok := r.BasicAuth(); !ok || name != "me" || password != "secret" {
		t.Errorf("user %q, password %q", name, password)
	}
	if got := r.Header; len(got) != 4 { // Accept, Authorization, Connection, User-Agent
		t.Errorf("header %v", got)
	}
}

func TestHTTPSaysWhatIsWrong(t *testing.T) {
	sameDescriptors(t)
	closed := closedPort(t, "tcp", "127.0.0.1:0")
	for name, tt := range map[string]struct{ url, want string }{
		"refused":      {"http://" + tcpDest("127.0.0.1", closed).String(), "does not answer: dial tcp 127.0.0.1"},
		"silent":       {speaks(t, "", true), "does not answer within "},
		"half":         {speaks(t, "HTTP/1.1 200 O", true), "does not answer within "},
		"closes":       {speaks(t, "", false), "closes the connection without an answer"},
		"early end":    {speaks(t, "HTTP/1.1 200 OK\r\nA: b", false), "closes the connection without an answer"},
		"another":      {speaks(t, "SSH-2.0-OpenSSH_9.2\r\n", true), `does not answer: malformed HTTP response "SSH-2.0-OpenSSH_9.2"`},
		"noise":        {speaks(t, strings.Repeat("x", 9000)+"\n", true), "x..."},
		"endless head": {speaks(t, "HTTP/1.1 200 OK\r\nA: "+strings.Repeat("b", 2*headMost), true), "the head of its answer is longer than 65536 bytes"},
		"endless 1xx":  {speaks(t, strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", headMost/20), true), "the head of its answer is longer"},
		"no name":      {"http://no.such.name.invalid/", "find the address of dest no.such.name.invalid:80"},
		"secret":       {"http://u:pw@" + tcpDest("127.0.0.1", closed).String(), "http://u:xxxxx@127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			h := asking(t, tt.url)
			h.first = 10 * time.Millisecond
			if name != "silent" {
				h.first = bound
			}
			d := 6 * short
			if name == "half" {
				h.first = short
			}
			err := waitFor(t, h, d)
			if !errors.Is(err, errOver) || !strings.Contains(err.Error(), tt.want) || strings.ContainsAny(err.Error(), "\r\n") || len(err.Error()) > 400 {
				t.Errorf("Wait = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestHTTPTakesInformationalAnswersAndLongBodies(t *testing.T) {
	sameDescriptors(t)
	for name, text := range map[string]string{
		"early hints":      "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
		"body that stays":  "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12",
		"body that is big": "HTTP/1.0 200 OK\r\n\r\n" + strings.Repeat("x", 1<<20),
		"chunks":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
	} {
		began := time.Now()
		if err := waitFor(t, asking(t, speaks(t, text, true)), bound); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > httpTimeout/2 {
			t.Errorf("%s: ready after %v: a body is not waited for", name, took)
		}
	}
}

// A server that takes long for its first answer gets longer for the next ones.
func TestHTTPGivesASlowServerMoreTime(t *testing.T) {
	const takes = 100 * time.Millisecond
	over := make(chan struct{})
	defer close(over)
	u := answers(t, func(http.ResponseWriter, *http.Request) {
		select {
		case <-time.After(takes):
		case <-over:
		}
	})
	h := asking(t, u)
	h.first = takes / 5
	if err := waitFor(t, h, bound); err != nil {
		t.Error(err)
	}
}

func TestHTTPEndsWithItsContext(t *testing.T) {
	sameDescriptors(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errOver)
	// RFC 5737: nobody answers there.
	for _, u := range []string{"http://192.0.2.1", speaks(t, "", true), "http://no.such.name.invalid"} {
		if err := asking(t, u).Wait(ctx); !errors.Is(err, errOver) || !strings.Contains(err.Error(), "has not answered yet") {
			t.Errorf("%s: Wait = %v", u, err)
		}
	}
	if err := waitFor(t, asking(t, speaks(t, "HTTP/1.1 200 OK\r\n", true)), short); !errors.Is(err, errOver) {
		t.Errorf("Wait = %v", err)
	}
}
