package admin_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"tiproxy/internal/admin"
)

func check(t *testing.T, at admin.Target) error {
	t.Helper()
	return admin.Check(briefly(t), at)
}

func TestCheck_FollowsTheHealth(t *testing.T) {
	w := newWorld()
	at, _ := w.onSocket(t)
	if err := check(t, at); err != nil {
		t.Errorf("well: %v", err)
	}
	w.change(func(w *world) { w.sick = errors.New("stopping") })
	var unhealthy *admin.UnhealthyError
	if err := check(t, at); !errors.As(err, &unhealthy) || unhealthy.Status != http.StatusServiceUnavailable || unhealthy.Answer != "stopping" {
		t.Errorf("sick: %v", err)
	}
	w.change(func(w *world) { w.sick = nil })
	if err := check(t, at); err != nil {
		t.Errorf("well again: %v", err)
	}
}

func TestCheck_SaysWhyThereIsNoAnswer(t *testing.T) {
	at, s := newWorld().onSocket(t)
	s.Close()
	if err := check(t, at); !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("after Close: %v", err)
	}
	must(t, os.Remove(at.Address))
	if err := check(t, at); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "--admin unix:"+at.Address) {
		t.Errorf("without a file: %v", err)
	}
}

// A listener that never answers must not hold a check longer than its context.
func TestCheck_IsBounded(t *testing.T) {
	l, err := admin.Listen(t.Context(), socketPath(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := admin.Check(ctx, admin.Target{Network: "unix", Address: l.Addr().String()}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestListen_OnlyTheOwnerMayUseIt(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	l, err := admin.Listen(t.Context(), socketPath(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Lstat(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode %v, want srw-------", info.Mode())
	}
	if now := syscall.Umask(0); now != 0 {
		t.Errorf("the umask was changed to %03o", now)
	}
}

func TestListen_TakesNobodysPlace(t *testing.T) {
	at, _ := newWorld().onSocket(t)
	if l, err := admin.Listen(t.Context(), at.Address); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, %v", l, err)
	}
}

func TestServer_AnswersNothingElse(t *testing.T) {
	at, _ := newWorld().onSocket(t)
	for request, want := range map[string]string{
		"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n":                  "HTTP/1.1 200 OK",
		"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n":                 "HTTP/1.1 200 OK",
		"POST /healthz HTTP/1.1\r\nHost: x\r\n\r\n":                 "HTTP/1.1 405 Method Not Allowed",
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n":                         "HTTP/1.1 404 Not Found",
		"GET /healthz/ HTTP/1.1\r\nHost: x\r\n\r\n":                 "HTTP/1.1 404 Not Found",
		"GET /debug/pprof/ HTTP/1.1\r\nHost: x\r\n\r\n":             "HTTP/1.1 404 Not Found",
		"nonsense\r\n\r\n":                                          "HTTP/1.1 400 Bad Request",
		"GET /" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\n\r\n": "HTTP/1.1 431 Request Header Fields Too Large",
	} {
		if got := ask(t, at.Address, request); got != want {
			t.Errorf("%.40q: %q, want %q", request, got, want)
		}
	}
}

// ask sends a request as it is and returns the first line of the answer.
func ask(t *testing.T, path, request string) string {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(bound)); err != nil {
		t.Fatal(err)
	}
	// A server that has heard enough closes before it has read all.
	_, _ = io.WriteString(c, request)
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return fmt.Sprint(err)
	}
	return strings.TrimSpace(line)
}

// Whoever keeps a connection does not hold up the end of the program.
func TestClose_EndsWhatIsOpen(t *testing.T) {
	at, s := newWorld().onSocket(t)
	c, err := net.Dial("unix", at.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(bound)); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is open after Close")
	}
}
