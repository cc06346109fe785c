//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
)

// A wrong command line ends with 2, a world that does not allow it with 1, and
// both say in a line or two what is wrong.
func TestCommandLine_ExitStatus(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	good := func(more ...string) []string {
		return append([]string{"--dest", "127.0.0.1:3000", "--exec", "cat"}, more...)
	}
	for _, c := range []struct {
		name   string
		args   []string
		status int
		says   string
	}{
		{"help", []string{"--help"}, 0, "Examples:"},
		{"version", []string{"--version"}, 0, "go1."},
		{"no dest", []string{"--exec", "cat"}, 2, "--dest"},
		{"no program", []string{"--dest", "127.0.0.1:3000"}, 2, "--exec"},
		{"unknown program", []string{"--dest", "127.0.0.1:3000", "--exec", "no-such-program"}, 2, "no-such-program"},
		{"missing directory", good("--workdir", "/no/such/dir"), 2, "/no/such/dir"},
		{"dest is bind", good("--bind", "127.0.0.1:3000"), 2, "--dest"},
		{"dest is bind in another spelling", good("--bind", ":3000"), 2, "--dest"},
		{"port 0", []string{"--dest", "127.0.0.1:0", "--exec", "cat"}, 2, "port"},
		{"no unit", good("--idle", "60"), 2, "60s"},
		{"misspelt flag", good("--idel", "60s"), 2, "--idle"},
		{"word before the arguments", good("-l"), 2, "-l"},
		{"leftover word", good("serve"), 2, "serve"},
		{"address in use", good("--bind", taken.Addr().String()), 1, "in use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := launch(t, setup{line: append([]string{binary}, c.args...), status: c.status})
			p.ends(prompt)
			p.log.untilEnd(prompt)
			p.out.untilEnd(prompt)
			said := p.out.text() + p.log.text()
			if !strings.Contains(said, c.says) {
				t.Errorf("should say %q: %s", c.says, said)
			}
			if lines := strings.Count(strings.TrimSpace(said), "\n") + 1; c.status == 2 && lines > 2 {
				t.Errorf("a mistake told in %d lines: %s", lines, said)
			}
		})
	}
}

// What stands behind "--" reaches the child byte for byte, whatever it looks like.
func TestCommandLine_ArgumentsAreNotTouched(t *testing.T) {
	words := []string{"--help", "demo", "--", "", " a  b ", "$HOME", `"'\`, "*", "line\nbreak", "--dest=1", "\xff"}
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{dest: dest, program: self, args: append([]string{"role", "echo", dest}, words...), flags: []string{"--env", "WORD=a b=c"}})
	mustAsk(t, dial(t, host(), p.address()), "hello")
	child := p.running("e2e-child")
	if len(child) != 1 {
		t.Fatalf("tree: %v", p.tree())
	}
	if got := child[0].cmdline()[4:]; !slices.Equal(got, words) {
		t.Errorf("the child got %q, want %q", got, words)
	}
	if !child[0].hasEnv("WORD=a b=c") {
		t.Error("--env did not reach the child")
	}
	if child[0].hasEnv("TIPROXY_LOG_FORMAT=json") {
		t.Error("a variable meant for tiproxy reached the child")
	}
	if stdin, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", child[0].pid)); stdin != "/dev/null" {
		t.Errorf("the child's stdin is %q, %v", stdin, err)
	}
}

func TestCommandLine_UnknownVariableIsNamed(t *testing.T) {
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		dest: dest, program: self, args: []string{"role", "echo", dest},
		env: []string{"TIPROXY_IDEL=5s"}, allow: []string{"unknown environment variable"},
	})
	if !strings.Contains(p.log.text(), "TIPROXY_IDEL") {
		t.Error("the log does not name it")
	}
}
