//go:build linux

package dockere2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// quickStart are the lines that people type, from docs/tidb.md.
func quickStart(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs/tidb.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := blockWith(string(text), "docker build")
	if len(block) != 6 {
		t.Fatalf("docs/tidb.md: the quick start has these lines: %q", block)
	}
	return block
}

// blockWith returns the lines of the first indented block that has word in it.
func blockWith(text, word string) []string {
	var block []string
	for line := range strings.SplitSeq(text, "\n") {
		if code, ok := strings.CutPrefix(line, "    "); ok {
			block = append(block, code)
			continue
		}
		if slices.ContainsFunc(block, func(l string) bool { return strings.Contains(l, word) }) {
			return block
		}
		block = nil
	}
	return block
}

// buildLines are those that make the image.
func buildLines(t *testing.T) []string { return quickStart(t)[:3] }

// standInFor names the stand-in where a line would take TiDB's image.
func standInFor(line string) string {
	return strings.Replace(line, "docker build ", "docker build --build-arg TIDB_IMAGE="+tidbImage+" ", 1)
}

func TestQuickStart_IsInTheReadmeToo(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := blockWith(string(text), "docker build"), quickStart(t); !slices.Equal(got, want) {
		t.Errorf("README.md says\n%s\nand docs/tidb.md\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestQuickStart(t *testing.T) {
	l := shared(t)
	typed := quickStart(t)
	for _, line := range typed[:3] {
		if err := run(l.shell(standInFor(line))); err != nil {
			t.Fatal(err)
		}
	}
	if typed[4] != mysqlLine || typed[5] != mysqlLine {
		t.Fatalf("the tests call %q, and people %q", mysqlLine, typed[4:])
	}

	up := l.shell("exec " + typed[3])
	up.Env = append(up.Env, "TIPROXY_IDLE=3s")
	printed := &lines{}
	up.Stdout, up.Stderr = printed, printed
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- up.Wait() }()
	down := l.compose("docker-compose.yml", "down", "--volumes")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("docker-compose up printed:\n%s", printed.text())
		}
		if err := run(down); err != nil {
			t.Error(err)
		}
	})
	c := l.composed(t)
	c.event("listening", 1)
	sleepAndWake(t, c)

	// Ctrl-C, to the one that was typed.
	if err := up.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("docker-compose up ended with %v", err)
		}
	case <-timeout():
		t.Error("docker-compose up does not end")
		_ = up.Process.Kill()
	}
	if code := c.inspect("{{.State.ExitCode}}"); code != "0" {
		t.Errorf("tiproxy ended with status %s", code)
	}
}

// sleepAndWake is the life that the quick start shows.
func sleepAndWake(t *testing.T, c *container) {
	t.Helper()
	l := c.lab
	// The verdict comes from questions, which must not have woken it.
	c.healthy()
	if n := c.count("starting"); n != 0 {
		t.Fatalf("HEALTHCHECK woke TiDB:\n%s", c.log())
	}
	c.asleep()

	// The first session wakes it, the second finds it awake.
	l.sql(t, "create table test.t (id int primary key, s varchar(20)); insert into test.t values (1, 'kept')")
	c.event("opened", 1)
	first := c.runs("tidb-server")
	if got := l.sql(t, "select s from test.t"); got != "kept" {
		t.Errorf("second session: %q", got)
	}
	if again := c.runs("tidb-server"); again.pid != first.pid {
		t.Errorf("the second session got process %v, the first %v", again, first)
	}

	// After the idle time it is gone, and questions do not wake it.
	c.event("closed", 1)
	c.asleep()
	questions := c.questions()
	eventually(t, "two more health checks", func() error {
		if now := c.questions(); now == questions || now == "" {
			return fmt.Errorf("the last one was at %s", now)
		}
		return nil
	})
	c.asleep()
	if got := c.count("starting"); got != 1 {
		t.Errorf("TiDB was started %d times, want 1", got)
	}

	// The next session wakes it, with what was there.
	if got := l.sql(t, "select s from test.t"); got != "kept" {
		t.Errorf("after the idle stop: %q", got)
	}
	c.event("opened", 2)
	if failed := c.inspect("{{range .State.Health.Log}}{{if .ExitCode}}{{.Output}}{{end}}{{end}}"); failed != "" {
		t.Errorf("health checks failed: %s", failed)
	}
}

// questions is the time of the last health check.
func (c *container) questions() string {
	return c.inspect("{{range .State.Health.Log}}{{.End}}\n{{end}}")
}

// composed is the container with TiDB that docker-compose started.
func (l *lab) composed(t *testing.T) *container {
	t.Helper()
	c := &container{t: t, lab: l}
	eventually(t, "docker-compose has a container", func() error {
		id, err := output(l.compose(composeFiles[0], "ps", "--quiet", "tidb"))
		c.id = strings.TrimSpace(id)
		if err == nil && c.id == "" {
			return errors.New("there is none")
		}
		return err
	})
	return c
}
