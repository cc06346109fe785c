//go:build linux

package dockere2e

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// container is one in which tiproxy is the first process.
type container struct {
	t   *testing.T
	lab *lab
	id  string
}

// docker runs a docker command that must work and returns what it printed.
func (l *lab) docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := output(l.engine.command("docker", args...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// compose is a docker-compose command in the copy of the repository.
func (l *lab) compose(file string, args ...string) *exec.Cmd {
	cmd := l.engine.command("docker-compose", append([]string{"-f", "./docker/" + file}, args...)...)
	cmd.Dir = l.tree
	cmd.Env = append(cmd.Env, "TIDB_IMAGE="+tidbImage, "PD_IMAGE="+pdImage, "TIKV_IMAGE="+tikvImage)
	return cmd
}

// image makes sure that there is a tiproxy:latest, as the quick start makes it.
func (l *lab) image(t *testing.T) {
	t.Helper()
	if l.docker(t, "images", "--quiet", "tiproxy:latest") != "" {
		return
	}
	for _, line := range buildLines(t) {
		if err := run(l.shell(standInFor(line))); err != nil {
			t.Fatal(err)
		}
	}
}

// shell is a line as people type it, in the copy of the repository.
func (l *lab) shell(line string) *exec.Cmd {
	cmd := l.engine.command("sh", "-c", line)
	cmd.Dir = l.tree
	return cmd
}

// start runs tiproxy:latest until the end of the test.
func (l *lab) start(t *testing.T, args ...string) *container {
	t.Helper()
	l.image(t)
	c := &container{t: t, lab: l, id: l.docker(t, append([]string{"run", "--detach"}, args...)...)}
	t.Cleanup(c.remove)
	c.event("listening", 1)
	return c
}

func (c *container) remove() {
	if c.t.Failed() {
		c.t.Logf("log of %.12s:\n%s", c.id, c.log())
	}
	c.lab.docker(c.t, "rm", "--force", "--volumes", c.id)
}

func (c *container) inspect(format string) string {
	c.t.Helper()
	return c.lab.docker(c.t, "inspect", "--format", format, c.id)
}

// log is all that the container printed.
func (c *container) log() string {
	c.t.Helper()
	out, err := output(c.lab.shell("docker logs " + c.id + " 2>&1"))
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// count says how many lines of tiproxy's log have this message.
func (c *container) count(msg string) int {
	c.t.Helper()
	n := 0
	for line := range strings.Lines(c.log()) {
		var e struct{ Msg string }
		if json.Unmarshal([]byte(line), &e) == nil && e.Msg == msg {
			n++
		}
	}
	return n
}

// event waits until msg was logged n times.
func (c *container) event(msg string, n int) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("%d times %q in the log", n, msg), func() error {
		if got := c.count(msg); got < n {
			return fmt.Errorf("%d so far", got)
		}
		return nil
	})
}

// healthy waits for docker's verdict.
func (c *container) healthy() {
	c.t.Helper()
	eventually(c.t, "healthy", func() error {
		if s := c.inspect("{{.State.Health.Status}}"); s != "healthy" {
			return fmt.Errorf("it is %s", s)
		}
		return nil
	})
}

// process is one of a container's, as seen from outside.
type process struct {
	pid, ppid int
	state     string
	inner     []int // pids in the namespaces from ours to its own
	namespace string
	program   string // the base name of its file, "" for a zombie
	args      string
}

func (p process) String() string {
	return fmt.Sprintf("[%d parent %d %s %s: %s]", p.pid, p.ppid, p.state, p.program, p.args)
}

// table reads the process table.
func table() []process {
	names, _ := filepath.Glob("/proc/[0-9]*/status")
	var out []process
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it ended
		}
		var p process
		p.pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(name)))
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			switch fields := strings.Fields(value); key {
			case "PPid":
				p.ppid, _ = strconv.Atoi(fields[0])
			case "State":
				p.state = fields[0]
			case "NSpid":
				for _, f := range fields {
					n, _ := strconv.Atoi(f)
					p.inner = append(p.inner, n)
				}
			}
		}
		p.namespace, _ = os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", p.pid))
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		p.args = strings.ReplaceAll(strings.TrimRight(string(cmdline), "\x00"), "\x00", " ")
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.pid)); err == nil {
			p.program = filepath.Base(exe)
		}
		out = append(out, p)
	}
	return out
}

// below returns the descendants of a process.
func below(all []process, pid int) []process {
	var out []process
	for _, p := range all {
		if p.ppid == pid && p.pid != pid {
			out = append(append(out, p), below(all, p.pid)...)
		}
	}
	return out
}

// init is the container's first process, which is tiproxy.
func (c *container) init() process {
	c.t.Helper()
	pid, err := strconv.Atoi(c.inspect("{{.State.Pid}}"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range below(table(), c.lab.engine.init) {
		if n := len(p.inner); n >= 2 && p.inner[n-1] == 1 && p.inner[n-2] == pid {
			return p
		}
	}
	c.t.Fatalf("process %d of the engine is not to be found", pid)
	return process{}
}

// tree is what runs below tiproxy, but for processes of its own program.
func (c *container) tree() []process {
	c.t.Helper()
	return slices.DeleteFunc(below(table(), c.init().pid), func(p process) bool {
		return p.state != "Z" && p.program == "tiproxy"
	})
}

// runs waits until exactly one process of this program runs below tiproxy.
func (c *container) runs(program string) process {
	c.t.Helper()
	var found process
	eventually(c.t, "one "+program+" runs", func() error {
		tree := c.tree()
		if len(tree) != 1 || tree[0].program != program {
			return fmt.Errorf("below tiproxy: %v", tree)
		}
		found = tree[0]
		return nil
	})
	return found
}

// asleep waits until nothing is left below tiproxy, dead or alive, and checks
// that the container runs on.
func (c *container) asleep() {
	c.t.Helper()
	eventually(c.t, "nothing runs below tiproxy", func() error {
		if tree := c.tree(); len(tree) > 0 {
			return fmt.Errorf("still there: %v", tree)
		}
		return nil
	})
	if s := c.inspect("{{.State.Status}}"); s != "running" {
		c.t.Fatalf("the container is %s", s)
	}
}

// mysqlLine is the client as the quick start calls it.
const mysqlLine = "mysql --host 127.0.0.1 --port 4000 -u root"

// mysql runs statements in one session of the published port.
func (l *lab) mysql(statements string) (string, error) {
	cmd := l.engine.command("sh", "-c", mysqlLine+" --batch --skip-column-names")
	cmd.Args = l.engine.within(cmd.Args...)
	cmd.Path, _ = exec.LookPath(cmd.Args[0])
	cmd.Stdin = strings.NewReader(statements)
	out, err := output(cmd)
	return strings.TrimSpace(out), err
}

// sql is mysql for statements that must work.
func (l *lab) sql(t *testing.T, statements string) string {
	t.Helper()
	out, err := l.mysql(statements)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// session is a client that stays.
type session struct {
	t     *testing.T
	in    io.WriteCloser
	out   *lines
	ended chan error
}

// connect opens a session that ends with the test.
func (l *lab) connect(t *testing.T) *session {
	t.Helper()
	line := l.engine.within("sh", "-c", mysqlLine+" --batch --skip-column-names --unbuffered --skip-reconnect")
	cmd := l.engine.command(line[0], line[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	s := &session{t: t, in: in, out: &lines{}, ended: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr = s.out, s.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.ended <- cmd.Wait() }()
	t.Cleanup(func() {
		in.Close()
		s.wait()
	})
	return s
}

// say runs a statement and waits for a line of its answer.
func (s *session) say(statement, answer string) {
	s.t.Helper()
	if _, err := io.WriteString(s.in, statement+"\n"); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, fmt.Sprintf("the answer %q to %s", answer, statement), func() error {
		if !s.out.has(answer) {
			return fmt.Errorf("got %q", s.out.text())
		}
		return nil
	})
}

// wait waits for the client's end.
func (s *session) wait() error {
	s.t.Helper()
	select {
	case err := <-s.ended:
		s.ended <- err
		return err
	case <-timeout():
		s.t.Error("the mysql client did not end")
		return nil
	}
}
