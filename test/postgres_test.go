//go:build linux

package e2e

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// postgres is a server of its own: its data, and how to call it. PostgreSQL
// refuses to run as root, so it is started by a program that changes the user and
// then becomes the server, or by tiproxy itself as that user.
type postgres struct {
	bin, dir, port string
}

func newPostgres(t *testing.T) postgres {
	t.Helper()
	needRoot(t, "a child that changes its user")
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) == 0 {
		t.Fatal("no /usr/lib/postgresql/*/bin/postgres: run scripts/packages.sh")
	}
	db := postgres{bin: filepath.Dir(found[len(found)-1]), dir: sharedDir(t), port: freePort(t)}
	data := filepath.Join(db.dir, "data")
	mustClient(t, "", "install", "-d", "-o", "postgres", "-m", "0700", data)
	mustClient(t, "", append(append([]string{"setpriv"}, asPostgres...),
		filepath.Join(db.bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")...)
	return db
}

// asPostgres are the arguments of setpriv that make it become PostgreSQL's user.
var asPostgres = []string{"--reuid=postgres", "--regid=postgres", "--init-groups"}

// setup runs it. how is setpriv or --user.
func (db postgres) setup(how string, flags ...string) setup {
	s := setup{
		dest: "127.0.0.1:" + db.port, program: filepath.Join(db.bin, "postgres"), flags: flags, dir: db.dir,
		args: []string{"-D", filepath.Join(db.dir, "data"), "-p", db.port,
			"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "log_line_prefix="},
	}
	if how == "--user" {
		s.flags = append(s.flags, "--user", "postgres")
		return s
	}
	s.args = slices.Concat(asPostgres, []string{s.program}, s.args)
	s.program = "setpriv"
	return s
}

func TestPostgres_AsItsOwnUser(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"setpriv", "--user"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			postgresAsItsOwnUser(t, how)
		})
	}
}

func postgresAsItsOwnUser(t *testing.T, how string) {
	p := run(t, newPostgres(t).setup(how, "--idle", "500ms"))
	to := []string{"-h", "127.0.0.1", "-p", p.port(), "-U", "postgres"}
	psql := func(sql string) string {
		return askPostgres(t, append(append([]string{"psql", "-XAtq"}, to...), "-c", sql))
	}
	psql("CREATE TABLE memory (word TEXT); INSERT INTO memory VALUES ('kept')")
	// pgbench does not ask again, so somebody keeps the server awake for it.
	awake := dial(t, host(), p.address())
	psql("SELECT 1")
	mustClient(t, "", append(append([]string{"pgbench", "-i", "-q", "-s", "1"}, to...), "postgres")...)
	for _, how := range [][]string{{"-c", "8", "-j", "2", "-t", "100"}, {"-C", "-c", "4", "-t", "15"}} {
		out := mustClient(t, "", append(append(append([]string{"pgbench", "-n"}, how...), to...), "postgres")...)
		if !strings.Contains(out, "number of failed transactions: 0 ") {
			t.Errorf("pgbench %v:\n%s", how, out)
		}
	}
	awake.Close()

	before := p.log.count("starting")
	eventuallyAsleep(p)
	if got := psql("SELECT word FROM memory"); got != "kept" {
		t.Errorf("after the idle stop the table holds %q", got)
	}
	if after := p.log.count("starting"); after <= before {
		t.Errorf("%d starts before the idle stop, %d after the next client: it was not stopped", before, after)
	}
	for _, bad := range []string{"was interrupted", "automatic recovery", "not properly shut down"} {
		if strings.Contains(p.log.text(), bad) {
			t.Errorf("an idle stop was a crash for the database: its log says %q", bad)
		}
	}
}

// askPostgres asks again as long as the server says that it is still starting:
// PostgreSQL listens, and answers with that, before it can be used.
func askPostgres(t *testing.T, line []string) string {
	t.Helper()
	var r result
	eventually(t, "PostgreSQL has started", func() error {
		r = client(t, "", line...)
		if strings.Contains(r.stderr, "the database system is starting up") {
			return errors.New(r.stderr)
		}
		return nil
	})
	if r.status != 0 {
		t.Fatalf("%v: exit status %d: %s", line, r.status, r.stderr)
	}
	return strings.TrimSpace(r.stdout)
}

// eventuallyAsleep waits until every child that was started is gone.
func eventuallyAsleep(p *tiproxy) {
	p.t.Helper()
	if !p.log.until(bound, func() bool { return p.log.count("closed") == p.log.count("starting") }) {
		p.t.Fatal("the child was not stopped after the idle time")
	}
	p.asleep()
}
