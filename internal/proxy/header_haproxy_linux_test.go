package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// HAProxy's authors wrote the protocol down. It gets our headers and hands on
// what it understood, and we read what it writes, in all four combinations.
func TestHeader_WithHAProxy(t *testing.T) {
	behind := listen(t, "tcp")
	proxies := startHAProxy(t, behind.Addr(), []string{"send-proxy", "send-proxy-v2"})

	for _, p := range proxies {
		for version := byte(1); version <= 2; version++ {
			for _, c := range []struct{ source, dest *net.TCPAddr }{{client4, bind4}, {client6, bind6}} {
				b, err := encodeHeader(version, c.source, c.dest)
				if err != nil {
					t.Fatal(err)
				}
				got := throughHAProxy(t, p.believing, behind, b)
				if want := (header{source: plain(c.source), dest: plain(c.dest)}); got != want {
					t.Errorf("we say %q, HAProxy says with %s: %+v", b, p.how, got)
				}
			}
		}
		for version := byte(1); version <= 2; version++ {
			b, err := encodeHeader(version, &net.UnixAddr{}, &net.UnixAddr{})
			if err != nil {
				t.Fatal(err)
			}
			got := throughHAProxy(t, p.believing, behind, b)
			if ours := p.believing.Addr().(*net.TCPAddr); got.local || got.dest != plain(ours) {
				t.Errorf("we say %q, HAProxy says with %s: %+v; want the socket's own addresses", b, p.how, got)
			}
		}
		got := throughHAProxy(t, p.plain, behind, nil)
		if got.local || got.source.Addr() != netip.AddrFrom4([4]byte{127, 0, 0, 1}) || got.dest != plain(p.plain.Addr().(*net.TCPAddr)) {
			t.Errorf("HAProxy says of our socket with %s: %+v", p.how, got)
		}
	}
}

// throughHAProxy sends a header and more, at once, and returns what is read of
// it behind HAProxy.
func throughHAProxy(t *testing.T, front, behind net.Listener, ours []byte) header {
	t.Helper()
	c := connect(t, front.Addr())
	say(t, c, append(ours, "hello\r\n"...))
	behind.(*net.TCPListener).SetDeadline(time.Now().Add(patient))
	s, err := behind.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	h, err := readHeader(t.Context(), s, patient)
	if err != nil {
		t.Fatalf("we say %q, HAProxy makes %v of it", ours, err)
	}
	hear(t, s, []byte("hello\r\n"))
	return h
}

// haproxy is a pair of its listeners that write the header in the same way.
type haproxy struct {
	how       string       // the keyword of its configuration
	plain     net.Listener // takes clients
	believing net.Listener // takes clients that begin with a header
}

// startHAProxy starts one HAProxy in front of to until the end of the test. It
// inherits its listening sockets, so that there is no port to be guessed.
func startHAProxy(t *testing.T, to net.Addr, hows []string) []haproxy {
	t.Helper()
	path, err := exec.LookPath("haproxy")
	switch {
	case err != nil && os.Getenv("CI") != "":
		t.Fatal(err)
	case err != nil:
		t.Skip("NOT TESTED: without haproxy, which scripts/packages.sh installs")
	}
	config := "defaults\n mode tcp\n timeout connect 20s\n timeout client 20s\n timeout server 20s\n"
	var all []haproxy
	var files []*os.File
	front := func(how, accept string) net.Listener {
		l := listen(t, "tcp")
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
		config += fmt.Sprintf("listen l%d\n bind fd@%d %s\n server s %s %s\n", len(files), 2+len(files), accept, to, how)
		return l
	}
	for _, how := range hows {
		all = append(all, haproxy{how: how, plain: front(how, ""), believing: front(how, "accept-proxy")})
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-db", "-f", file)
	cmd.ExtraFiles = files
	var says strings.Builder
	cmd.Stderr = &says
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("haproxy says: %s", says.String())
		}
	})
	return all
}
