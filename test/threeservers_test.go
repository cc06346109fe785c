//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// trio is a MariaDB, a Redis and an nginx behind one tiproxy.
type trio struct {
	*file
	db           mariaDB
	dir          string
	sql, kv, www string   // where clients connect
	ports        []string // where the servers listen
	extra        string
}

func newTrio(t *testing.T) *trio {
	t.Helper()
	x := &trio{db: newMariaDB(t), dir: sharedDir(t)}
	for _, at := range []*string{&x.sql, &x.kv, &x.www} {
		*at = "127.0.0.1:" + freePort(t)
		x.ports = append(x.ports, freePort(t))
	}
	if err := os.MkdirAll(filepath.Join(x.dir, "www"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(x.dir, "www", "hello"), []byte("hello\n"))
	write(t, filepath.Join(x.dir, "conf"), fmt.Appendf(nil, nginxConf, x.dir, x.ports[2]))
	return x
}

// services is the configuration. common goes into each of them.
func (x *trio) services(common string) string {
	quoted := func(words []string) string { return `"` + strings.Join(words, `", "`) + `"` }
	return x.extra + fmt.Sprintf(`
  sql: {bind: "%s", dest: "127.0.0.1:%s", exec: mariadbd, args: [%s], %s}
  kv: {bind: "%s", dest: "127.0.0.1:%s", exec: redis-server, args: [%s], %s}
  www: {bind: "%s", dest: "127.0.0.1:%s", exec: nginx, args: [%s], %s}
`, x.sql, x.ports[0], quoted(x.db.args("--bind-address=127.0.0.1", "--port="+x.ports[0])), common,
		x.kv, x.ports[1], quoted([]string{"--port", x.ports[1], "--bind", "127.0.0.1", "--dir", x.dir, "--save", "3600 1"}), common,
		x.www, x.ports[2], quoted([]string{"-p", x.dir, "-e", "stderr", "-c", filepath.Join(x.dir, "conf")}), common)
}

// query has a fresh client of MariaDB ask something.
func (x *trio) query(sql string) result {
	_, port, _ := strings.Cut(x.sql, ":")
	return client(x.p.t, "", "mysql", "--no-defaults", "-h", "127.0.0.1", "-P", port, "-u", "root", "-N", "-e", sql)
}

func (x *trio) redis(words ...string) result {
	_, port, _ := strings.Cut(x.kv, ":")
	return client(x.p.t, "", append([]string{"redis-cli", "-p", port}, words...)...)
}

// page gets a page on a connection of its own.
func (x *trio) page() error {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: bound}
	r, err := c.Get("http://" + x.www + "/hello")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && string(body) != "hello\n" {
		err = fmt.Errorf("got %q", body)
	}
	return err
}

func (r result) whole(want string) error {
	if got := strings.TrimSpace(r.stdout); r.status != 0 || got != want {
		return fmt.Errorf("exit status %d, %q, want %q: %s", r.status, got, want, r.stderr)
	}
	return nil
}

// Each server wakes with its first client, is asleep when nobody is there, and
// has what it had.
func TestThreeServers_WakeAndSleep(t *testing.T) {
	t.Parallel()
	x := newTrio(t)
	x.file = runReloadable(t, x.services("idle: 400ms"))
	for _, err := range []error{
		x.query("CREATE DATABASE shop; CREATE TABLE shop.items (n INT); INSERT INTO shop.items VALUES (7)").whole(""),
		x.redis("set", "key", "value").whole("OK"),
		x.page(),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	for range 3 {
		x.p.expect("closed")
	}
	x.p.asleep()
	if err := x.query("SELECT n FROM shop.items").whole("7"); err != nil {
		t.Error(err)
	}
	if err := x.redis("get", "key").whole("value"); err != nil {
		t.Error(err)
	}
}

// The configuration changes again and again while clients ask each of the three
// without a pause. Not one request fails.
func TestThreeServers_ReloadUnderLoad(t *testing.T) {
	t.Parallel()
	x := newTrio(t)
	x.file = runReloadable(t, x.services("idle: 1m"))
	var load sync.WaitGroup
	var asked, failed [3]atomic.Int64
	stop := make(chan struct{})
	for i, ask := range []func() error{
		func() error { return x.query("SELECT 1 + 1").whole("2") },
		func() error { return x.redis("incr", "n").whole(fmt.Sprint(asked[1].Load() + 1)) },
		x.page,
	} {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := ask(); err != nil {
					failed[i].Add(1)
					t.Error(err)
				}
				asked[i].Add(1)
			}
		})
	}
	reloads, began := 0, time.Now()
	for time.Since(began) < 10*time.Second || asked[0].Load() < 20 {
		x.extra = ""
		if reloads%2 == 0 {
			x.extra = echoing("other", anyPort)
		}
		// The idle time ends lives between two requests, the variable makes each
		// of them another one than the last.
		x.becomes(x.services(fmt.Sprintf("idle: %dms, env: {N: '%d'}", 1+reloads%7, reloads)))
		reloads++
	}
	close(stop)
	load.Wait()
	starts := [3]int{x.p.lives("sql"), x.p.lives("kv"), x.p.lives("www")}
	t.Logf("%d reloads; MariaDB %d requests in %d lives, Redis %d in %d, nginx %d in %d; failed: %d, %d, %d", reloads,
		asked[0].Load(), starts[0], asked[1].Load(), starts[1], asked[2].Load(), starts[2], failed[0].Load(), failed[1].Load(), failed[2].Load())
	if starts[1] < 2 || starts[2] < 2 {
		t.Error("no life ended under load: this test has shown nothing")
	}
	x.p.signal(syscall.SIGTERM)
}
