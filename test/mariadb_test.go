//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// mariaDB is a server of its own: its data, and how to call it. It is started
// as root and changes its user, as distributions start it.
type mariaDB struct {
	data, socket string
}

func newMariaDB(t *testing.T) mariaDB {
	t.Helper()
	needRoot(t, "a server that changes its user")
	dir := sharedDir(t)
	db := mariaDB{data: filepath.Join(dir, "data"), socket: filepath.Join(dir, "run", "s")}
	mustClient(t, "", "install", "-d", "-o", "mysql", db.data, filepath.Dir(db.socket))
	// Temporary tables are named for the pid, which is not unique: other tests run
	// servers in PID namespaces.
	mustClient(t, "", "env", "TMPDIR="+filepath.Dir(db.socket), "mariadb-install-db", "--no-defaults", "--user=mysql", "--datadir="+db.data,
		"--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=8M")
	return db
}

func (db mariaDB) args(more ...string) []string {
	return append([]string{"--no-defaults", "--tmpdir=" + filepath.Dir(db.socket), "--user=mysql", "--datadir=" + db.data, "--socket=" + db.socket,
		"--pid-file=" + filepath.Join(db.data, "pid"), "--innodb-log-file-size=8M", "--skip-log-bin"}, more...)
}

func TestMariaDB_IsThereWhenAskedAndGoneWhenNot(t *testing.T) {
	t.Parallel()
	db := newMariaDB(t)
	port := freePort(t)
	p := run(t, setup{
		dest: "127.0.0.1:" + port, program: "mariadbd", flags: []string{"--idle", "500ms"},
		args: db.args("--bind-address=127.0.0.1", "--port="+port),
	})
	mysql := []string{"mysql", "--no-defaults", "-h", "127.0.0.1", "-P", p.port(), "-u", "root", "-N", "--unbuffered"}
	query := func(sql string) string {
		return strings.TrimSpace(mustClient(t, "", append(mysql, "-e", sql)...))
	}

	// The cold start is the client's own first connection.
	query("CREATE DATABASE shop; CREATE TABLE shop.items (n INT PRIMARY KEY, word TEXT); INSERT INTO shop.items VALUES (1, 'one')")
	p.expect("opened")

	one, two := openSession(t, host(), mysql...), openSession(t, host(), mysql...)
	one.say("SELECT CONCAT('pid ', @@pid_file), CONNECTION_ID() > 0;\n")
	one.hears("pid " + db.data)
	two.say("INSERT INTO shop.items VALUES (2, 'two'); SELECT 'done';\n")
	two.hears("done")
	one.say("SELECT word FROM shop.items WHERE n = 2;\n")
	one.hears("two\n")
	if servers := p.running("mariadbd"); len(servers) != 1 {
		t.Errorf("two sessions share %d servers, want 1: %v", len(servers), servers)
	}
	one.close()
	two.close()

	if e := p.expect("shutdown"); e.text("reason") == "" {
		t.Errorf("no reason in %s", e.line)
	}
	p.expect("closed")
	p.asleep()

	if got := query("SELECT GROUP_CONCAT(word ORDER BY n) FROM shop.items"); got != "one,two" {
		t.Errorf("after the idle stop the table holds %q, want one,two", got)
	}
	if n := p.log.count("starting"); n != 2 {
		t.Errorf("%d starts, want 2", n)
	}
	if strings.Contains(p.log.text(), "Starting crash recovery") {
		t.Error("the idle stop was a crash for the database")
	}
}

func TestMariaDB_KilledInTheMiddleOfASession(t *testing.T) {
	t.Parallel()
	db := newMariaDB(t)
	port := freePort(t)
	p := run(t, setup{
		dest: "127.0.0.1:" + port, program: "mariadbd",
		args:  db.args("--bind-address=127.0.0.1", "--port="+port),
		allow: []string{"closed"},
	})
	mysql := []string{"mysql", "--no-defaults", "-h", "127.0.0.1", "-P", p.port(), "-u", "root", "-N", "--unbuffered"}
	victim := openSession(t, host(), append(mysql, "--skip-reconnect")...)
	victim.say("CREATE DATABASE shop; CREATE TABLE shop.items (n INT); INSERT INTO shop.items VALUES (7); SELECT 'ready';\n")
	victim.hears("ready")
	victim.say("SELECT SLEEP(600);\n")

	servers := p.running("mariadbd")
	if len(servers) != 1 {
		t.Fatalf("servers: %v", servers)
	}
	if err := syscall.Kill(servers[0].pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := victim.ends(); code == 0 {
		t.Error("the session did not notice that its server was killed")
	}
	victim.stderr.untilEnd(bound)
	if said := victim.stderr.text(); !strings.Contains(said, "Lost connection") {
		t.Errorf("the session said %q, want a lost connection", said)
	}
	if e := p.expect("closed"); !strings.Contains(e.line, "signal: killed") {
		t.Errorf("the log should name the signal: %s", e.line)
	}
	got := strings.TrimSpace(mustClient(t, "", append(mysql, "-e", "SELECT n FROM shop.items")...))
	if got != "7" {
		t.Errorf("the next client got %q from the next server, want 7", got)
	}
	if next := p.running("mariadbd"); len(next) != 1 || next[0].pid == servers[0].pid {
		t.Errorf("servers now: %v", next)
	}
}

// As --user it does not even have to be started as root.
func TestMariaDB_ByUser(t *testing.T) {
	t.Parallel()
	db := newMariaDB(t)
	port := freePort(t)
	args := slices.DeleteFunc(db.args("--bind-address=127.0.0.1", "--port="+port), func(arg string) bool { return arg == "--user=mysql" })
	p := run(t, setup{
		dest: "127.0.0.1:" + port, program: "mariadbd", args: args, flags: []string{"--user", "mysql", "--idle", "300ms"},
	})
	mysql := []string{"mysql", "--no-defaults", "-h", "127.0.0.1", "-P", p.port(), "-u", "root", "-N"}
	mustClient(t, "", append(mysql, "-e", "CREATE DATABASE shop; CREATE TABLE shop.items (n INT); INSERT INTO shop.items VALUES (7)")...)
	p.expect("closed")
	p.asleep()
	if got := strings.TrimSpace(mustClient(t, "", append(mysql, "-e", "SELECT n FROM shop.items")...)); got != "7" {
		t.Errorf("after the idle stop the table holds %q, want 7", got)
	}
	awake := dial(t, host(), p.address())
	if _, err := awake.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	servers := p.running("mariadbd")
	if len(servers) != 1 {
		t.Errorf("servers: %v", servers)
	}
	for _, d := range servers {
		if info, err := os.Stat(fmt.Sprintf("/proc/%d", d.pid)); err != nil || info.Sys().(*syscall.Stat_t).Uid == 0 {
			t.Errorf("%v is root's: %v", d, err)
		}
	}
	if strings.Contains(p.log.text(), "Starting crash recovery") {
		t.Error("the idle stop was a crash for the database")
	}
}

func TestMariaDB_UnixSocketsOnBothSides(t *testing.T) {
	t.Parallel()
	db := newMariaDB(t)
	front := filepath.Join(filepath.Dir(db.data), "front")
	p := run(t, setup{
		bind: "unix:" + front, dest: "unix:" + db.socket, program: "mariadbd",
		flags: []string{"--idle", "300ms"}, args: db.args("--skip-networking"),
	})
	for range 2 {
		got := mustClient(t, "", "mysql", "--no-defaults", "-S", front, "-u", "root", "-N", "-e", "SELECT 6*7")
		if strings.TrimSpace(got) != "42" {
			t.Errorf("got %q, want 42", got)
		}
		p.expect("closed")
		p.asleep()
	}
	p.signal(syscall.SIGTERM)
	p.ends(bound)
	if _, err := os.Lstat(front); !os.IsNotExist(err) {
		t.Errorf("tiproxy's own socket is still there after its end: %v", err)
	}
}
