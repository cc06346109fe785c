//go:build linux

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestRedis_BenchmarkWithoutAnError(t *testing.T) {
	port := freePort(t)
	p := run(t, setup{
		dest: "127.0.0.1:" + port, program: "redis-server", flags: []string{"--idle", "300ms"},
		args: []string{"--port", port, "--bind", "127.0.0.1", "--dir", sharedDir(t), "--save", "3600 1"},
	})
	cli := func(words ...string) string {
		return strings.TrimSpace(mustClient(t, "", append([]string{"redis-cli", "-p", p.port()}, words...)...))
	}
	if got := cli("set", "key", "value"); got != "OK" {
		t.Fatalf("redis-cli woke a server that said %q", got)
	}
	bench := client(t, "", "redis-benchmark", "-p", p.port(), "-n", "10000", "-c", "50", "-q", "-t", "ping,set,get,lrange_100")
	if said := bench.stdout + bench.stderr; bench.status != 0 || strings.Contains(said, "rror") {
		t.Errorf("redis-benchmark: exit status %d\n%s", bench.status, said)
	}
	// Every request on a connection of its own.
	bench = client(t, "", "redis-benchmark", "-p", p.port(), "-n", "2000", "-c", "20", "-q", "-k", "0", "-t", "ping_inline")
	if said := bench.stdout + bench.stderr; bench.status != 0 || strings.Contains(said, "rror") {
		t.Errorf("redis-benchmark -k 0: exit status %d\n%s", bench.status, said)
	}
	if n := p.log.count("starting"); n != 1 && p.log.count("closed") < n-1 {
		t.Errorf("%d starts, %d of them closed", n, p.log.count("closed"))
	}
	p.expect("closed")
	p.asleep()
	if got := cli("get", "key"); got != "value" {
		t.Errorf("after the idle stop the key holds %q", got)
	}
}

func TestRedis_UnixSocketsOnEitherSide(t *testing.T) {
	dir := sharedDir(t)
	front, back := filepath.Join(dir, "front"), filepath.Join(dir, "back")
	port := freePort(t)
	for _, way := range []struct{ name, bind, dest string }{
		{"tcp to unix", "127.0.0.1:0", "unix:" + back},
		{"unix to tcp", "unix:" + front, "127.0.0.1:" + port},
		{"unix to unix", "unix:" + front, "unix:" + back},
	} {
		t.Run(way.name, func(t *testing.T) {
			p := run(t, setup{
				bind: way.bind, dest: way.dest, program: "redis-server", flags: []string{"--idle", "100ms"},
				args: []string{"--port", port, "--unixsocket", back, "--save", ""},
			})
			where := []string{"-s", front}
			if !strings.HasPrefix(way.bind, "unix:") {
				where = []string{"-p", p.port()}
			}
			for range 2 {
				got := mustClient(t, strings.Repeat("ping\n", 100), append([]string{"redis-cli"}, where...)...)
				if strings.Count(got, "PONG") != 100 {
					t.Errorf("got %q", got)
				}
				p.expect("closed")
				p.asleep()
			}
		})
	}
}
