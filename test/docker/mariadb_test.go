//go:build linux

package dockere2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mariadbImage is a server from Debian's own packages. Started by root it turns
// into another user, whose descriptors tiproxy may not look into: a container
// has no CAP_SYS_PTRACE by default. That is the hard case of readiness.
const mariadbImage = "mariadb-from-debian:test"

// makeMariaDB builds the image and tiproxy on top of it.
func (l *lab) makeMariaDB(t *testing.T) {
	t.Helper()
	folder := l.folder(t)
	server, err := exec.LookPath("mariadbd")
	if err != nil {
		server = "/usr/sbin/mariadbd"
	}
	files, err := withLibraries(map[string]string{"/bin/sh": "/bin/dash", "/tidb-server": server})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/etc/passwd", "/etc/group", "/usr/share/mysql/english/errmsg.sys"} {
		files[name] = name
	}
	if err := l.importImage(mariadbImage, files, `ENTRYPOINT ["/tidb-server"]`); err != nil {
		t.Fatal(err)
	}
	if err := run(l.shell("CGO_ENABLED=0 go build -o " + filepath.Join(folder, "bin/tiproxy"))); err != nil {
		t.Fatal(err)
	}
	l.docker(t, "build", "--build-arg", "TIDB_IMAGE="+mariadbImage, "--tag", "tiproxy-mariadb:test", folder)
}

// database makes an empty data directory.
func database(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tiproxy-mariadb-") //nolint:usetesting // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	install := exec.Command("mariadb-install-db", "--no-defaults", "--user=mysql", "--datadir="+data,
		"--auth-root-authentication-method=normal", "--skip-test-db")
	if err := run(install); err != nil {
		t.Fatal(err)
	}
	return data
}

func TestMariaDB_ThatChangesItsUser(t *testing.T) {
	l := shared(t)
	l.makeMariaDB(t)
	data := database(t)
	c := &container{t: t, lab: l, id: l.docker(t, append(append([]string{"run", "--detach"}, published...),
		"--volume", data+":/data", "--env", "TIPROXY_IDLE=3s", "--env", "TIPROXY_DEST=127.0.0.1:4001",
		"tiproxy-mariadb:test", "--", "--no-defaults", "--datadir=/data", "--user=mysql", "--port=4001",
		"--bind-address=127.0.0.1", "--socket=/tmp/mysql.sock", "--lc-messages-dir=/usr/share/mysql")...)}
	t.Cleanup(c.remove)
	c.event("listening", 1)
	for life := 1; life <= 2; life++ {
		if got := l.sql(t, "select 'served'"); got != "served" {
			t.Errorf("life %d: %q", life, got)
		}
		c.event("opened", life)
		c.event("closed", life)
		c.asleep()
	}
	// What makes it the hard case, in case somebody makes it easier.
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.init().pid))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "CapEff:\t00000000a80425fb") {
		t.Errorf("tiproxy has not the capabilities of a default container:\n%s", status)
	}
	if n := c.count("the child's sockets cannot be told for sure"); n != 1 {
		t.Errorf("%d lines say that readiness is a guess, want 1", n)
	}
	if n := c.count("start failed"); n != 0 {
		t.Errorf("%d failed starts", n)
	}
	l.docker(t, "stop", c.id)
	if code := c.inspect("{{.State.ExitCode}}"); code != "0" {
		t.Errorf("status %s, want 0", code)
	}
}
