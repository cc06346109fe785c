//go:build linux

package e2e

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// postgres is a server of its own: its data, and how to call it. PostgreSQL
// refuses to run as root, so it is started the way its unit does: by a program
// that changes the user and then becomes the server.
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
	mustClient(t, "", "install", "-d", "-o", "postgres", "-m", "0700", db.data())
	mustClient(t, "", append([]string{"setpriv"}, db.asItself(
		"initdb", "-D", db.data(), "-U", "postgres", "-A", "trust", "--no-sync")...)...)
	return db
}

func (db postgres) data() string { return filepath.Join(db.dir, "data") }

// asItself are the arguments of setpriv that run a program as PostgreSQL's user.
func (db postgres) asItself(program string, args ...string) []string {
	return append([]string{"--reuid=postgres", "--regid=postgres", "--init-groups", filepath.Join(db.bin, program)}, args...)
}

// args are the server's own.
func (db postgres) args() []string {
	return []string{"-D", db.data(), "-p", db.port,
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "log_line_prefix="}
}

func (db postgres) setup(flags ...string) setup {
	return setup{
		dest: "127.0.0.1:" + db.port, program: "setpriv", flags: flags, dir: db.dir,
		args: db.asItself("postgres", db.args()...),
	}
}

// PostgreSQL may be started by a program that changes the user, or by tiproxy
// itself as that user.
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
	t.Helper()
	db := newPostgres(t)
	s := db.setup("--idle", "500ms")
	if how == "--user" {
		s.flags = append(s.flags, "--user", "postgres")
		s.program, s.args = filepath.Join(db.bin, "postgres"), db.args()
	}
	p := run(t, s)
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
