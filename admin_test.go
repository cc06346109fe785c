package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// healthcheck runs "tiproxy healthcheck".
func healthcheck(t *testing.T, env []string, args ...string) *proxyRun {
	t.Helper()
	return start(t, env, append([]string{"healthcheck"}, args...)...)
}

func TestHealthcheck_AsksTheRunningOne(t *testing.T) {
	t.Parallel()
	at := "unix:" + filepath.Join(shortDir(t), "admin")
	r := start(t, nil, serving(t, "serves", "--admin", at, "--idle", "50ms")...)
	r.address()
	h := healthcheck(t, nil, "--admin", at)
	h.exits(exitStopped)
	if h.stdout.text() != "ok\n" {
		t.Errorf("stdout: %q, stderr: %q", h.stdout.text(), h.stderr.text())
	}
	healthcheck(t, []string{"TIPROXY_ADMIN=" + at}).exits(exitStopped)
	if r.find(msgStarting, 1) != nil {
		t.Error("asking woke the child")
	}

	// A child that nobody but us asks about goes to sleep and stays asleep.
	c := r.dial()
	says(t, c, "hello")
	c.Close()
	r.logged(msgClosed, 1)
	healthcheck(t, nil, "--admin", at).exits(exitStopped)
	if r.find(msgStarting, 2) != nil {
		t.Error("asking woke the child again")
	}
}

func TestHealthcheck_IsNotWellWhileItStops(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "admin")
	r := start(t, nil, serving(t, "serves", "--admin", "unix:"+path, "--drain-timeout", "10m")...)
	c := r.dial()
	says(t, c, "hello")
	r.signal(syscall.SIGTERM)
	r.logged(msgStopping, 1)
	h := healthcheck(t, nil, "--admin", "unix:"+path)
	h.exits(exitFailed)
	if !strings.Contains(h.stderr.text(), "tiproxy: not healthy: it answers 503: stopping") {
		t.Errorf("stderr: %s", h.stderr.text())
	}
	c.Close()
	r.exits(exitStopped)
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is there after the end: %v", err)
	}
	healthcheck(t, nil, "--admin", "unix:"+path).exits(exitFailed)
}

func TestAdmin_StaleSocketIsReplacedAndALiveOneIsNot(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "admin")
	killed := start(t, nil, serving(t, "serves", "--admin", "unix:"+path)...)
	killed.address()
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info, err)
	}
	taken := start(t, nil, serving(t, "serves", "--admin", "unix:"+path)...)
	taken.exits(exitFailed)
	if !strings.Contains(taken.stderr.text(), "cannot listen on unix:"+path+": address already in use") {
		t.Errorf("stderr: %s", taken.stderr.text())
	}
	must(t, killed.cmd.Process.Kill())
	killed.exits(-1)
	start(t, nil, serving(t, "serves", "--admin", "unix:"+path)...).address()
	healthcheck(t, nil, "--admin", "unix:"+path).exits(exitStopped)
}

func TestAdmin_WrongOnesSayWhatWouldBeRight(t *testing.T) {
	t.Parallel()
	bind := "unix:" + filepath.Join(shortDir(t), "bind")
	for _, c := range []struct {
		line []string
		says string
	}{
		{serving(t, "serves", "--admin", ":4001"), "write for example unix:/run/tiproxy.sock"},
		{serving(t, "serves", "--admin", ""), "--admin is empty: write for example unix:"},
		{serving(t, "serves", "--bind", bind, "--admin", bind), "write another one"},
		{[]string{"healthcheck", "--admin", "/run/x"}, "write unix:/run/x"},
		{[]string{"healthcheck", "now"}, `leftover word "now"`},
	} {
		r := start(t, nil, c.line...)
		r.exits(exitUsage)
		if !strings.Contains(r.stderr.text(), c.says) {
			t.Errorf("%q: %q does not say %q", c.line, r.stderr.text(), c.says)
		}
	}
}
