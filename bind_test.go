package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestBind_PortZeroIsNamed(t *testing.T) {
	t.Parallel()
	r := start(t, nil, serving(t, "serves")...)
	_, port, err := net.SplitHostPort(r.address())
	if err != nil || port == "0" {
		t.Errorf("listening on %q, %v", r.address(), err)
	}
	says(t, r.dial(), "hello")
}

func TestBind_TakenPortNamesItsHolder(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	r := start(t, nil, serving(t, "serves", "--bind", l.Addr().String())...)
	r.exits(exitFailed)
	for _, part := range []string{
		"tiproxy: cannot listen on " + l.Addr().String() + ": address already in use",
		fmt.Sprintf("by process %d (", os.Getpid()), "write another port, or 0 for any free one",
	} {
		if !strings.Contains(r.stderr.text(), part) {
			t.Errorf("stderr does not say %q", part)
		}
	}
	if n := len(r.said()); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
}

func TestBind_AddressOfNobodyHere(t *testing.T) {
	t.Parallel()
	r := start(t, nil, serving(t, "serves", "--bind", "203.0.113.1:0")...)
	r.exits(exitFailed)
	if !strings.Contains(r.stderr.text(), "no interface of this machine has that address") {
		t.Errorf("stderr: %s", r.stderr.text())
	}
}

func TestBindUnix_IsRemovedAtExit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "bind")
	r := start(t, nil, serving(t, "serves", "--bind", "unix:"+path)...)
	if r.address() != "unix:"+path {
		t.Errorf("listening on %s", r.address())
	}
	says(t, r.dial(), "hello")
	r.signal(syscall.SIGTERM)
	r.exits(exitStopped)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestBindUnix_StaleOneIsReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "bind")
	killed := start(t, nil, serving(t, "serves", "--bind", "unix:"+path)...)
	killed.address()
	must(t, killed.cmd.Process.Kill())
	killed.exits(-1)
	if _, err := os.Lstat(path); err != nil {
		t.Fatalf("nothing is stale: %v", err)
	}
	r := start(t, nil, serving(t, "serves", "--bind", "unix:"+path)...)
	says(t, r.dial(), "hello")
}

func TestBindUnix_LeavesTheLivingAndOtherFilesAlone(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	live := filepath.Join(dir, "live")
	l, err := net.Listen("unix", live)
	must(t, err)
	defer l.Close()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("precious"), 0o600))
	link := filepath.Join(dir, "link")
	must(t, os.Symlink("live", link))
	for path, want := range map[string]string{
		live: "address already in use", file: "not a socket", link: "not a socket", dir + "/none/bind": "no such file or directory",
	} {
		r := start(t, nil, serving(t, "serves", "--bind", "unix:"+path)...)
		r.exits(exitFailed)
		if !strings.Contains(r.stderr.text(), want) {
			t.Errorf("%s: %q does not say %q", path, r.stderr.text(), want)
		}
	}
	if data, err := os.ReadFile(file); string(data) != "precious" {
		t.Errorf("the file holds %q, %v", data, err)
	}
	c, err := net.Dial("unix", live)
	must(t, err)
	c.Close()
}

func TestBindUnix_SomebodyElsesIsNotRemoved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "bind")
	r := start(t, nil, serving(t, "serves", "--bind", "unix:"+path)...)
	r.address()
	must(t, os.Remove(path))
	l, err := net.Listen("unix", path)
	must(t, err)
	defer l.Close()
	r.signal(syscall.SIGTERM)
	r.exits(exitStopped)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("tiproxy has removed the socket of another program: %v", err)
	}
	c.Close()
}
