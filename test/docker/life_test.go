//go:build linux

package dockere2e

import (
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"
)

// published are the arguments that publish the port as the compose files do.
var published = []string{"--publish", "127.0.0.1:4000:4000", "--stop-timeout", "30"}

// startPublished runs tiproxy:latest with its port published.
func (l *lab) startPublished(t *testing.T, args ...string) *container {
	t.Helper()
	return l.start(t, append(append([]string{}, published...), args...)...)
}

// Questions much more frequent than the idle time neither keep TiDB awake nor
// wake it.
func TestHealthcheck_NeitherKeepsAwakeNorWakes(t *testing.T) {
	l := shared(t)
	c := l.startPublished(t, "--health-interval", "500ms", "--env", "TIPROXY_IDLE=4s", "tiproxy:latest")
	c.healthy()
	l.sql(t, "select 1")
	c.event("closed", 1)
	seen := strings.Count(c.questions(), "\n")
	last := c.questions()
	for range 5 {
		eventually(t, "one more health check", func() error {
			if now := c.questions(); now == last {
				return fmt.Errorf("none so far")
			}
			return nil
		})
		last = c.questions()
	}
	c.healthy()
	c.asleep()
	if n := c.count("starting"); n != 1 || seen == 0 {
		t.Errorf("started %d times, want 1; %d health checks seen before", n, seen)
	}
	// A check that could not fail would say nothing.
	l.docker(t, "exec", c.id, "/tiproxy", "healthcheck")
	if err := run(l.engine.command("docker", "exec", "--env", "TIPROXY_ADMIN=unix:/run/other.sock", c.id, "/tiproxy", "healthcheck")); err == nil {
		t.Error("a tiproxy that is not there is healthy")
	}
	if got := l.docker(t, "exec", c.id, "/bin/sh", "-c", "echo /run/*"); got != "/run/tiproxy.sock" {
		t.Errorf("in /run: %s", got)
	}
}

// docker stop ends TiDB as it wants to be ended: open transactions finish.
func TestStop_LetsATransactionFinish(t *testing.T) {
	l := shared(t)
	c := l.startPublished(t, "tiproxy:latest")
	l.sql(t, "create table test.t (id int primary key)")
	s := l.connect(t)
	s.say("begin; insert into test.t values (1); select 'open';", "open")

	stopped := make(chan error, 1)
	began := time.Now()
	go func() { stopped <- run(l.engine.command("docker", "stop", c.id)) }()
	c.event("stopping", 1)
	c.event("shutdown", 1)
	// TiDB has been asked to end and waits for this.
	if _, err := io.WriteString(s.in, "commit;\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	c.endedWell(took)
	if took > 15*time.Second {
		t.Errorf("the stop took %v: the commit did not end the wait", took)
	}
	if !strings.Contains(c.log(), "stand-in: sessions ended after") {
		t.Errorf("TiDB did not end in order:\n%s", c.log())
	}

	// What was committed while it stopped is there.
	l.docker(t, "start", c.id)
	c.event("listening", 2)
	if got := l.sql(t, "select count(*) from test.t"); got != "1" {
		t.Errorf("after the stop there are %s rows, want 1", got)
	}
}

// A transaction that never ends costs TiDB's 15 s and not the grace period.
func TestStop_StaysBelowTheGracePeriod(t *testing.T) {
	l := shared(t)
	c := l.startPublished(t, "tiproxy:latest")
	s := l.connect(t)
	s.say("create table test.t (id int primary key); begin; insert into test.t values (1); select 'open';", "open")
	began := time.Now()
	l.docker(t, "stop", c.id)
	took := time.Since(began)
	c.endedWell(took)
	if took < 15*time.Second {
		t.Errorf("it took %v: the open transaction did not get TiDB's 15 s", took)
	}
	l.docker(t, "start", c.id)
	c.event("listening", 2)
	if got := l.sql(t, "select count(*) from test.t"); got != "0" {
		t.Errorf("after the stop there are %s rows of a transaction that was not committed", got)
	}
}

// endedWell checks that docker did not have to kill it.
func (c *container) endedWell(took time.Duration) {
	c.t.Helper()
	if code := c.inspect("{{.State.ExitCode}}"); code != "0" {
		c.t.Errorf("status %s, want 0", code)
	}
	if took >= 30*time.Second {
		c.t.Errorf("the stop took %v, as long as the grace period", took)
	}
	c.t.Logf("docker stop took %v", took.Round(100*time.Millisecond))
}

// docker kill leaves nothing, and the next start is not in the way of what the
// last one could not tidy up (its socket).
func TestKill_LeavesNothing(t *testing.T) {
	l := shared(t)
	c := l.startPublished(t, "tiproxy:latest")
	s := l.connect(t)
	s.say("select 'in';", "in")
	c.runs("tidb-server")
	namespace := c.init().namespace
	l.docker(t, "kill", "--signal", "KILL", c.id)
	eventually(t, "no process of the container is left", func() error {
		for _, p := range table() {
			if p.namespace == namespace {
				return fmt.Errorf("still there: %v", p)
			}
		}
		return nil
	})
	if code := c.inspect("{{.State.ExitCode}}"); code != "137" {
		t.Errorf("status %s, want 137: it was not killed", code)
	}
	l.docker(t, "start", c.id)
	c.event("listening", 2)
	l.docker(t, "exec", c.id, "/tiproxy", "healthcheck")
	l.sql(t, "select 1")
}

// PID 1 gets the orphans of the whole container: a process whose parent, a
// child of TiDB's, has left it behind.
func TestOrphan_IsReaped(t *testing.T) {
	l := shared(t)
	// The shell is the child's child; it leaves a tikv-server (which only
	// waits to be told to end) behind, then turns into the server.
	script := `(/tikv-server --addr=127.0.0.1:20160 & ) ; exec /tidb-server "$@"`
	c := l.startPublished(t, "--volume", l.dir+"/standin:/tikv-server:ro",
		"--env", "TIPROXY_EXEC=/bin/sh", "tiproxy:latest",
		"--", "-c", script, "sh", "-config", "/etc/tidb/tidb.toml", "-store", "unistore", "-path", "/var/lib/tidb")
	s := l.connect(t)
	s.say("select 'in';", "in")
	init := c.init()
	var orphan process
	eventually(t, "an orphan is PID 1's", func() error {
		for _, p := range c.tree() {
			if p.program == "tikv-server" && p.ppid == init.pid {
				orphan = p
				return nil
			}
		}
		return fmt.Errorf("below tiproxy: %v", c.tree())
	})
	if err := syscall.Kill(orphan.pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the orphan is reaped", func() error {
		for _, p := range below(table(), init.pid) {
			if p.pid == orphan.pid || p.state == "Z" {
				return fmt.Errorf("still there: %v", p)
			}
		}
		return nil
	})
	// Nobody else was taken for it.
	s.say("select 'still in';", "still in")
}
