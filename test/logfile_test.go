//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What a child prints goes to a file that is rotated, the others' output on to
// tiproxy's own. A directory that is away holds nobody up.
func TestServices_LogsToAFile(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(sharedDir(t), "logs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`
defaults: {idle: 100ms}
services:
  kept: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: sh, logs: "file:%[2]s/", logs-size: 4KiB, logs-keep: 2,
    args: [-c, 'i=0; while [ $i -lt 3000 ]; do echo "line $i"; i=$((i+1)); done; exec %[1]s role echo 127.0.0.1:{port}']}
  passed: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: sh, args: [-c, 'echo "passed on"; exec %[1]s role echo 127.0.0.1:{port}']}
`, self, dir)
	p := run(t, setup{line: []string{binary, "run", "--config", configFile(t, text)}, allow: []string{"the child's output cannot be kept"}})
	file := filepath.Join(dir, "kept.log")
	printed := func() error {
		now, err := os.ReadFile(file)
		if err == nil && !strings.Contains(string(now), "line 2999\n") {
			err = fmt.Errorf("%d bytes without the last line", len(now))
		}
		return err
	}
	kept, passed := dial(t, host(), p.bindOf("kept")), dial(t, host(), p.bindOf("passed"))
	mustAsk(t, kept, "hello")
	mustAsk(t, passed, "hello")
	eventually(t, "the last line is in the file", printed)
	eventually(t, "the other child is heard", func() error {
		if !strings.Contains(p.out.text(), "passed | passed on\n") {
			return fmt.Errorf("it is not: %q", p.out.text())
		}
		return nil
	})
	var all string
	for _, name := range []string{file + ".2", file + ".1", file} {
		part, err := os.ReadFile(name)
		if err != nil || len(part) > 4096+len("line 2999\n") {
			t.Errorf("%d bytes, %v", len(part), err)
		}
		all += string(part)
	}
	if _, err := os.Stat(file + ".3"); err == nil {
		t.Error("three old files are kept")
	}
	if n := strings.Count(all, "\n"); !strings.Contains(all, fmt.Sprintf("line %d\n", 3000-n+1)) {
		t.Errorf("%d lines are kept, but they are not the last ones", n)
	}

	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	kept.Close()
	p.expect("closed")
	mustAsk(t, dial(t, host(), p.bindOf("kept")), "hello again")
	p.says("the child's output cannot be kept")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p.says("the child's output is kept again")
	eventually(t, "the last line is in the file again", printed)
	p.signal(syscall.SIGTERM)
	p.ends(bound)
	if strings.Contains(p.out.text()+p.log.text(), "line 2999\n") {
		t.Error("the output went on to tiproxy's own, too")
	}
}
