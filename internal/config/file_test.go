package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// someFile reads a file in which PROG stands for a program that exists.
func someFile(t *testing.T, text string) (File, error) {
	t.Helper()
	prog := program(t, t.TempDir(), "server", 0o755)
	ports := map[string]uint16{}
	return Parse("tiproxy.yaml", []byte(strings.ReplaceAll(text, "PROG", prog)), Options{
		Variable: func(name string) (string, bool) { return "value of " + name, name == "SET" },
		Port: func(service string, taken func(uint16) bool) (uint16, error) {
			if ports[service] == 0 {
				ports[service] = uint16(20000 + len(ports))
			}
			return ports[service], nil
		},
	})
}

func TestFileIsServices(t *testing.T) {
	f, err := someFile(t, `
# two of them
admin: unix:/run/t.sock
log-level: debug
defaults:
  idle: 5m
  allow: [10.0.0.0/8, ::1]
  env: {LANG: C, N: 3}
services:
  db:
    bind: 127.0.0.1:4001
    dest: 127.0.0.1:{port}
    exec: PROG
    args: [--port, "{port}", -v, 7, "$$HOME ${SET}"]
    stop-timeout: 2s
  web:
    bind: 127.0.0.1:4002
    dest: 127.0.0.1:3002
    exec: PROG
    idle: 0
    allow: 127.0.0.1
    env: [A=b, "C=d=e"]
    ready: [listen, "log:ready"]
`)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Services) != 2 || f.Services[0].Name != "db" || f.Services[1].Name != "web" {
		t.Fatalf("services: %+v", f.Services)
	}
	db, web := f.Services[0], f.Services[1]
	if db.Idle != 5*time.Minute || db.StopTimeout != 2*time.Second || db.StartTimeout != time.Minute || web.Idle != 0 {
		t.Errorf("times: %v %v %v %v", db.Idle, db.StopTimeout, db.StartTimeout, web.Idle)
	}
	if db.Dest.Port != 20000 || strings.Join(db.Args, "|") != "--port|20000|-v|7|$HOME value of SET" {
		t.Errorf("dest %v, args %q", db.Dest, db.Args)
	}
	if len(db.Allow) != 2 || len(web.Allow) != 1 {
		t.Errorf("allow %v and %v: a list of a service takes the place of the default", db.Allow, web.Allow)
	}
	if strings.Join(db.Env, "|") != "LANG=C|N=3" || strings.Join(web.Env, "|") != "A=b|C=d=e" || len(web.Ready.Lines) != 1 {
		t.Errorf("env %q and %q, ready %+v", db.Env, web.Env, web.Ready)
	}
	if f.Admin.Text != "unix:/run/t.sock" || f.LogLevel.Text != "debug" || f.LogFormat.Given {
		t.Errorf("%+v", f)
	}
}

// Each mistake is told with its place and what would be right, all of them at once.
func TestFileTellsEveryMistake(t *testing.T) {
	const two = "services:\n  a: {bind: 127.0.0.1:4001, dest: 127.0.0.1:3001, exec: PROG}\n  b: {bind: %s, dest: %s, exec: PROG}\n"
	for _, tt := range []struct {
		text string
		want []string
	}{
		{"", []string{"tiproxy.yaml:1:1 is empty: write at least services:"}},
		{"# only this\n", []string{"is empty"}},
		{"services:\n\ta: {}\n", []string{"tiproxy.yaml:2:1 is indented by a tab: write blanks"}},
		{"- a\n", []string{"tiproxy.yaml:1:1 is a list: write services,"}},
		{"services: {a: {}}\n---\nservices: {}\n", []string{"is a second document"}},
		{"servces: {}\n", []string{`1:1: "servces" is no setting: did you mean services?`, "has no services"}},
		{"services:\n", []string{"1:10: services is empty: write NAME"}},
		{"services: {}\n", []string{"services is empty"}},
		{"services:\n  a:\n", []string{"2:5: services.a is empty: write dest"}},
		{"services:\n  a: {bind: 127.0.0.1:4001}\n", []string{"2:6: services.a.dest is missing", "2:6: services.a.exec"}},
		{"services:\n  a:\n    dest: 127.0.0.1:3000\n    exec: PROG\n    idle: 30\n    idel: 1m\n    stop-signal: FOO\n", []string{`5:11: services.a.idle: "30" has no unit`, `6:5: "services.a.idel" is no setting: did you mean idle?`, `7:18: services.a.stop-signal: "FOO" is not known`}},
		{"services:\n  a:\n    dest: 127.0.0.1:3000\n    exec: PROG\n    idle: 30\n    stop-signal: FOO\n", []string{`5:11: services.a.idle: "30" has no unit`, `6:18: services.a.stop-signal: "FOO" is not known`}},
		{"services:\n  a: {dest: 127.0.0.1:3000, exec: PROG, idle: [1m]}\n", []string{"services.a.idle is a list: write one value"}},
		{"services:\n  a: {dest: 127.0.0.1:3000, exec: PROG, idle: }\n", []string{"services.a.idle is empty: write one value"}},
		{"services:\n  a: {dest: 127.0.0.1:3000, dest: 127.0.0.1:3001, exec: PROG}\n", []string{"services.a.dest is there twice"}},
		{"services:\n  a: {dest: 127.0.0.1:3000, exec: PROG, env: [A]}\n", []string{`services.a.env[0]: "A" has no value`}},
		{"services:\n  a: {dest: 127.0.0.1:3000, exec: PROG, args: {x: y}}\n", []string{"services.a.args is a set of KEY: VALUE pairs"}},
		{"services:\n  a: {dest: 127.0.0.1:3000, exec: 'PROG${UNSET}'}\n", []string{"${UNSET} is not set: set the variable UNSET"}},
		{"services:\n  a: {dest: 127.0.0.1:3000, exec: PROG, env: ['A=${b']}\n", []string{`"${b" has no end`}},
		{"services:\n  a: {dest: 127.0.0.1:3000, exec: PROG, env: ['A=${b c}']}\n", []string{`"${b c}" is no variable`}},
		{"services:\n  1a: {dest: 127.0.0.1:3000, exec: PROG}\n", []string{`"1a" is no name: begin with a letter`}},
		{"defaults: {idle: 30, bind: ':1'}\nservices:\n  a: {dest: 127.0.0.1:3000, exec: PROG}\n", []string{`1:18: defaults.idle: "30" has no unit`, "defaults.bind is every service's own"}},
		{"services:\n  a: &x {dest: 127.0.0.1:3000, exec: PROG}\n  b: {<<: *x, dest: 127.0.0.1:3001}\n", []string{"services.b.<< is not supported: what services share goes into defaults"}},
		{fmt.Sprintf(two, "localhost:4001", "127.0.0.1:3002"), []string{"3:13: services.b.bind: localhost:4001 is where service a takes its clients (tiproxy.yaml:2:13: services.a.bind)"}},
		{fmt.Sprintf(two, "127.0.0.1:4002", "127.0.0.1:3001"), []string{"services.b.dest: 127.0.0.1:3001 is where the child of service a listens"}},
		{fmt.Sprintf(two, "127.0.0.1:3001", "127.0.0.1:3002"), []string{"services.a.dest: 127.0.0.1:3001 is where service b takes its clients"}},
		{"services:\n  a: {dest: 127.0.0.1:3000, exec: no-such-program-at-all}\n", []string{"services.a.exec: "}},
		{"\xff", []string{"is not UTF-8"}},
	} {
		_, err := someFile(t, tt.text)
		if err == nil {
			t.Errorf("%q is right", tt.text)
			continue
		}
		if n := len(unjoin(err)); n != len(tt.want) && len(tt.want) > 1 {
			t.Errorf("%q: %d mistakes, want %d:\n%v", tt.text, n, len(tt.want), err)
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q:\n%v\ndoes not say %s", tt.text, err, want)
			}
		}
		for _, bad := range []string{"yaml.", "!!", "config.", "%!"} {
			if strings.Contains(err.Error(), bad) {
				t.Errorf("%q speaks of %s: %v", tt.text, bad, err)
			}
		}
	}
}

// What services say of each other and of groups is checked, too.
func TestFileTellsWhatNeverFits(t *testing.T) {
	const groups = "groups:\n  gpu: {children: 2, memory: 16GiB, tokens: 10}\n"
	service := func(name, rest string) string {
		n := int(name[0])
		return fmt.Sprintf("  %s: {bind: 127.0.0.1:4%d, dest: 127.0.0.1:3%d, exec: PROG, %s}\n", name, n, n, rest)
	}
	for _, tt := range []struct {
		text string
		want []string
	}{
		{groups + "services:\n" + service("a", "group: gpuu"), []string{`services.a.group: "gpuu" is no group of this file: did you mean gpu?`}},
		{"services:\n" + service("a", "group: gpu"), []string{"write groups: {gpu: {children: 1}}"}},
		{"services:\n" + service("a", "uses: {memory: 1GiB}"), []string{"services.a.uses.memory is taken of no group: add group: NAME"}},
		{groups + "services:\n" + service("a", "group: gpu, uses: {memory: 17GiB}"), []string{"services.a.uses.memory: 17GiB is more than the 16GiB that group gpu has"}},
		{groups + "services:\n" + service("a", "group: gpu, uses: {memory: 8}"), []string{"8 has no unit, but group gpu has 16GiB of memory: write for example 8GiB"}},
		{groups + "services:\n" + service("a", "group: gpu, uses: {tokens: 8KiB}"), []string{"8KiB has a unit, but group gpu has 10 of tokens"}},
		{groups + "services:\n" + service("a", "group: gpu, uses: {token: 8, memory: x}"), []string{`"token" is no amount of group gpu of this file: did you mean tokens?`, `services.a.uses.memory: "x" is no amount`}},
		{"groups: {g: {}}\nservices:\n" + service("a", "group: g"), []string{"groups.g has no limit: write children: 1"}},
		{"groups: {g: {childern: 1}}\nservices:\n" + service("a", "group: g"), []string{`"groups.g.childern" looks like children`, "has no limit"}},
		{"groups: {g: {children: 0, wait: 5}}\nservices:\n" + service("a", "group: g"), []string{"groups.g.children: 0 is too small", `groups.g.wait: "5" has no unit`, "has no limit"}},
		{"services:\n" + service("a", "needs: [a]"), []string{"services.a.needs[0]: a is the service itself"}},
		{"services:\n" + service("a", "needs: [b], wake: [cat]") + service("cats", "needs: []"), []string{`services.a.needs[0]: "b" is no service of this file`, `services.a.wake[0]: "cat" is no service of this file: did you mean cats?`}},
		{"services:\n" + service("a", "needs: [b, b]") + service("b", "idle: 1m"), []string{`"b" is there twice`}},
		{"services:\n" + service("a", "needs: [b]") + service("b", "wake: [c]") + service("c", "needs: [a]"), []string{"services.c.needs[0]: a leads back to itself (a → b → c → a)"}},
		{groups + "services:\n" + service("a", "group: gpu, uses: {memory: 9GiB}, needs: [b]") + service("b", "group: gpu, uses: {memory: 8GiB}"), []string{"services.a.needs[0]: services a and b have to be awake at once, but use 17GiB of memory together, of which group gpu has 16GiB"}},
		{groups + "services:\n" + service("a", "group: gpu, needs: [b]") + service("b", "wake: [c], group: gpu") + service("c", "group: gpu"), []string{"services a, b and c have to be awake at once, but group gpu has room for 2"}},
		{"services:\n" + service("a", "logs: stdout"), []string{`services.a.logs: "stdout" is not known: write output, or a file such as file:/var/log/tiproxy/a.log`}},
		{"services:\n" + service("a", "logs: 'file:/no/such/dir/a.log'"), []string{"/no/such/dir does not exist"}},
		{"services:\n" + service("a", "logs: 'file:/'") + service("b", "logs: 'file:/tmp'"), []string{"/tmp is a directory: write file:/tmp/"}},
		{"services:\n" + service("a", "logs: 'file:/tmp/x'") + service("b", "logs: 'file:/tmp/x'"), []string{"services.b.logs: /tmp/x is where the output of service a goes"}},
		{"services:\n" + service("a", "logs-size: 1MiB"), []string{"services.a.logs-size is about a file"}},
		{"services:\n" + service("a", "logs: 'file:/tmp/', logs-size: 1000, logs-keep: -1"), []string{`logs-size: "1000" has no unit`, `logs-keep: "-1" is not a whole number`}},
		{"admin: 127.0.0.1:97\nservices:\n" + service("a", "idle: 1m"), []string{"admin: \"127.0.0.1:97\" is open to everybody who can reach it: write unix:/path, or add admin-token-file"}},
		{"admin: unix:/tmp/x\nlog-level: loud\nservices:\n" + strings.Replace(service("a", "idle: 1m"), "127.0.0.1:497", "unix:/tmp/x", 1), []string{"admin: unix:/tmp/x is where service a takes its clients", `log-level: "loud" is not known`}},
	} {
		_, err := someFile(t, tt.text)
		if n := len(unjoin(err)); n != len(tt.want) {
			t.Errorf("%s%d mistakes, want %d:\n%v", tt.text, n, len(tt.want), err)
		}
		for _, want := range tt.want {
			if !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("%s%v\ndoes not say %s", tt.text, err, want)
			}
		}
	}
}

func TestFileIsGroups(t *testing.T) {
	dir := t.TempDir()
	f, err := someFile(t, `
groups:
  gpu: {children: 1, memory: 16GiB, wait: 2m}
  few: {tokens: 3}
defaults: {group: gpu, needs: [db], logs: "file:`+dir+`/", logs-keep: 5}
services:
  db: {bind: 127.0.0.1:4001, dest: 127.0.0.1:3001, exec: PROG, group: null}
  a: {bind: 127.0.0.1:4002, dest: 127.0.0.1:3002, exec: PROG, uses: {memory: 1.5GiB}, logs: output}
  b: {bind: 127.0.0.1:4003, dest: 127.0.0.1:3003, exec: PROG, group: few, uses: [tokens=2], needs: [], wake: [a, db], logs-size: 0}
`)
	if err != nil {
		t.Fatal(err)
	}
	wantGroups := []Group{
		{Name: "gpu", Children: 1, Amounts: map[string]int64{"memory": 16 << 30}, Wait: 2 * time.Minute},
		{Name: "few", Amounts: map[string]int64{"tokens": 3}, Wait: 5 * time.Minute},
	}
	if diff := cmp.Diff(wantGroups, f.Groups); diff != "" {
		t.Error(diff)
	}
	type shares struct {
		Together
		Logs Logs
	}
	var got []shares
	for _, s := range f.Services {
		got = append(got, shares{s.Together, s.Logs})
	}
	want := []shares{
		{Together{}, Logs{dir + "/db.log", 10 << 20, 5}},
		{Together{Group: "gpu", Uses: map[string]int64{"memory": 3 << 29}, Needs: []string{"db"}}, Logs{}},
		{Together{Group: "few", Uses: map[string]int64{"tokens": 2}, Wake: []string{"a", "db"}}, Logs{dir + "/b.log", 0, 5}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A default that is wrong is told once, however many services have it.
func TestFileTellsAMistakeOnce(t *testing.T) {
	_, err := someFile(t, "defaults: {idle: x}\nservices:\n  a: {bind: ':1', dest: 127.0.0.1:3000, exec: PROG}\n  b: {bind: ':2', dest: 127.0.0.1:3001, exec: PROG}\n")
	if n := strings.Count(fmt.Sprint(err), "defaults.idle"); n != 1 {
		t.Errorf("told %d times: %v", n, err)
	}
}

func TestFilePathsAreRelativeToTheFile(t *testing.T) {
	dir := t.TempDir()
	prog := program(t, dir, "server", 0o755)
	path := filepath.Join(dir, "tiproxy.yaml")
	if err := os.WriteFile(path, []byte("services: {a: {dest: '127.0.0.1:3000', exec: ./server, workdir: .}}"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := Load(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s := f.Services[0]; s.Path != prog || s.Workdir != dir {
		t.Errorf("program %s in %s, want %s in %s", s.Path, s.Workdir, prog, dir)
	}
	for _, bad := range []string{dir, filepath.Join(dir, "none.yaml")} {
		if _, err := Load(bad, Options{}); err == nil || !strings.Contains(err.Error(), "cannot read the configuration") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// Whatever is in a file, it is read in bounded time or refused in whole sentences.
func FuzzConfigFile(f *testing.F) {
	f.Add("services: {a: {dest: '127.0.0.1:3000', exec: /bin/sh}}")
	f.Add("a: &a [*a]\nservices: *a")
	f.Add("services: &s\n  a: *s\n")
	f.Add("defaults: {env: {A: ${SET}}}\nservices: {a: {args: [${]}}")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Parse("f", []byte(text), Options{Variable: func(string) (string, bool) { return "v", true }})
		if err == nil && len(file.Services) == 0 {
			t.Error("right, and without a service")
		}
		for _, one := range unjoin(err) {
			if strings.Contains(one.Error(), "%!") || one.Error() == "" {
				t.Errorf("said %q", one)
			}
		}
	})
}

// unjoin is what errors.Join has joined.
func unjoin(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}
