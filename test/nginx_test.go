//go:build linux

package e2e

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const nginxConf = `
user root;
daemon off;
pid %[1]s/pid;
error_log stderr notice;
worker_processes 2;
events {}
http {
	access_log off;
	server {
		listen 127.0.0.1:%[2]s;
		root %[1]s/www;
		keepalive_timeout 5s;
	}
	client_body_temp_path %[1]s/tmp;
	proxy_temp_path %[1]s/tmp;
	fastcgi_temp_path %[1]s/tmp;
	uwsgi_temp_path %[1]s/tmp;
	scgi_temp_path %[1]s/tmp;
}
`

func newNginx(t *testing.T, flags ...string) (p *tiproxy, www string) {
	t.Helper()
	needRoot(t, "nginx with workers")
	dir, port := sharedDir(t), freePort(t)
	www = filepath.Join(dir, "www")
	if err := os.MkdirAll(www, 0o755); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "conf")
	write(t, conf, fmt.Appendf(nil, nginxConf, dir, port))
	return run(t, setup{
		dest: "127.0.0.1:" + port, program: "nginx", flags: flags,
		args: []string{"-p", dir, "-e", "stderr", "-c", conf},
	}), www
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestNginx_ManyRequestsNewAndKept(t *testing.T) {
	p, www := newNginx(t, "--idle", "300ms")
	write(t, filepath.Join(www, "hello"), []byte("hello\n"))
	url := "http://" + p.address()

	kept := mustClient(t, "", "curl", "-sS", url+"/hello?[1-200]")
	if n := strings.Count(kept, "hello\n"); n != 200 {
		t.Errorf("%d of 200 answers on kept connections", n)
	}
	fresh := mustClient(t, "", "curl", "-sS", "-H", "Connection: close", "--parallel", "--parallel-max", "16", url+"/hello?[1-200]")
	if n := strings.Count(fresh, "hello\n"); n != 200 {
		t.Errorf("%d of 200 answers on fresh connections", n)
	}
	missing := mustClient(t, "", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} ", url+"/nothing?[1-50]")
	if want := strings.Repeat("404 ", 50); missing != want {
		t.Errorf("a missing page: %q", missing)
	}
	if n := len(p.running("nginx")); n != 3 {
		t.Errorf("%d nginx processes, want a master and two workers", n)
	}
	p.expect("closed")
	p.asleep()
}

func TestNginx_BigFilesAreByteExact(t *testing.T) {
	p, www := newNginx(t)
	big := make([]byte, 64<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(big)
	write(t, filepath.Join(www, "big"), big)
	write(t, filepath.Join(www, "less"), big[:6<<20])
	sum := func(flags string, name string) string {
		return mustClient(t, "", "sh", "-c", "curl -sS "+flags+" http://"+p.address()+"/"+name+" | sha256sum")
	}
	if got, want := sum("", "big"), fmt.Sprintf("%x  -\n", sha256.Sum256(big)); got != want {
		t.Errorf("64 MiB at full speed: sha256 %s, want %s", got, want)
	}
	if got, want := sum("--limit-rate 3M", "less"), fmt.Sprintf("%x  -\n", sha256.Sum256(big[:6<<20])); got != want {
		t.Errorf("6 MiB to a slow reader: sha256 %s, want %s", got, want)
	}
}

// QUIT asks nginx to end gracefully; it is what its unit file sends.
func TestNginx_StopSignalOfItsOwn(t *testing.T) {
	p, www := newNginx(t, "--stop-signal", "QUIT", "--idle", "200ms")
	write(t, filepath.Join(www, "hello"), []byte("hello\n"))
	mustClient(t, "", "curl", "-sS", "http://"+p.address()+"/hello")
	if e := p.expect("closed"); !strings.Contains(e.line, "exit status 0") {
		t.Errorf("a graceful end: %s", e.line)
	}
	p.asleep()
	if !strings.Contains(p.log.text(), "signal 3 (SIGQUIT) received") {
		t.Error("nginx did not say that it got SIGQUIT")
	}
}
