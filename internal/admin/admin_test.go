package admin_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tiproxy/internal/admin"
)

// bound is how long a test waits for something that is sure to come.
const bound = 20 * time.Second

// room is an admin socket of the test's own.
func room(t *testing.T, health func() error) (path string, s *admin.Server) {
	t.Helper()
	path = socketPath(t)
	l, err := admin.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	s = admin.Serve(l, health, http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	t.Cleanup(s.Close)
	return path, s
}

// socketPath has a name short enough for sockets.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "adm-") //nolint:usetesting // the name of t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func well() error { return nil }

func check(t *testing.T, path string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	return admin.Check(ctx, path)
}

func TestCheck_FollowsTheHealth(t *testing.T) {
	var sick atomic.Bool
	path, _ := room(t, func() error {
		if sick.Load() {
			return errors.New("stopping")
		}
		return nil
	})
	if err := check(t, path); err != nil {
		t.Errorf("well: %v", err)
	}
	sick.Store(true)
	var unhealthy *admin.UnhealthyError
	if err := check(t, path); !errors.As(err, &unhealthy) || unhealthy.Status != http.StatusServiceUnavailable || unhealthy.Answer != "stopping" {
		t.Errorf("sick: %v", err)
	}
	sick.Store(false)
	if err := check(t, path); err != nil {
		t.Errorf("well again: %v", err)
	}
}

func TestCheck_SaysWhyThereIsNoAnswer(t *testing.T) {
	path, s := room(t, well)
	s.Close()
	if err := check(t, path); !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("after Close: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := check(t, path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "--admin unix:"+path) {
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
	if err := admin.Check(ctx, l.Addr().String()); !errors.Is(err, context.DeadlineExceeded) {
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
	path, _ := room(t, well)
	if l, err := admin.Listen(t.Context(), path); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, %v", l, err)
	}
}

func TestServer_AnswersNothingElse(t *testing.T) {
	path, _ := room(t, well)
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
		if got := ask(t, path, request); got != want {
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
	path, s := room(t, well)
	c, err := net.Dial("unix", path)
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
