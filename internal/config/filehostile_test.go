package config

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What a file could cost is bounded, and so is what is said about it.
func TestFileThatIsTooMuch(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	many := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	const service = "services: {a: {dest: '127.0.0.1:3000', exec: PROG}}\n"
	for what, tt := range map[string]struct{ text, want string }{
		"bytes":           {"# " + long(fileMost) + "\n" + service, "has more than 1048576 bytes"},
		"services":        {"services:\n" + many(5000, "  s%d: {}\n"), "has 5000 services: write at most 1000"},
		"aliases":         {"x: &x [" + many(20000, "%d,") + "]\nservices:\n" + many(900, "  s%d: {exec: PROG, args: *x}\n"), "is more than 100000 values"},
		"aliases in env":  {"x: &x {" + many(20000, "A%d: b,") + "}\nservices:\n" + many(900, "  s%d: {exec: PROG, env: *x}\n"), "is more than 100000 values"},
		"a laugh":         {"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nservices: {a: {args: *c}}\n", "services.a.args[0] is a list: write one value"},
		"itself":          {"services: &s {a: *s}\n", `"services.a.a" is no setting`},
		"depth":           {"services: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "services is a list"},
		"too much depth":  {"services: " + strings.Repeat("[", 200000), "is no YAML"},
		"a key":           {long(900000) + ": x\n" + service, `aaaa…" is no setting`},
		"keys":            {many(20000, "key%d: x\n") + service, "and 19900 more"},
		"the same key":    {strings.Repeat("k: x\n", 20000) + service, "and "},
		"a value":         {"services: {a: {dest: '127.0.0.1:3000', exec: " + long(100000) + "}}", "has 100000 bytes: write at most 65536"},
		"a value in text": {"services: {a: {dest: '" + long(60000) + "', exec: PROG}}", "has no port"},
		"a name":          {"services: {" + long(64) + ": {dest: '127.0.0.1:3000', exec: PROG}}", "is no name"},
		"groups":          {"groups:\n" + many(5000, "  g%d: {children: 1}\n") + service, "has 5000 groups: write at most 1000"},
		"amounts":         {"x: &x {" + many(2000, "a%d: 1,") + "}\ngroups:\n" + many(900, "  g%d: *x\n") + service, "is more than 100000 values"},
		"a group":         {"groups: {g: {" + many(2000, "a%d: 1,") + "}}\n" + service, "groups.g has 2000 keys: write at most 34"},
		"unknown keys":    {"x: &x {" + many(5000, "k%d: 1,") + "}\nservices:\n" + many(900, "  s%d: *x\n"), "is more than 100000 values"},
		"names":           {"x: &x [" + many(100, "nobody%d,") + "]\nservices:\n" + many(300, "  s%d: {exec: PROG, needs: *x}\n"), "and "},
		"the same place":  {"services:\n" + many(1000, "  s%d: {dest: '127.0.0.1:3000', exec: PROG}\n"), "is where service s0 takes its clients"},
		"circles":         {"x: &x [" + many(80, "s%d,") + "]\nservices:\n" + many(400, "  s%[1]d: {bind: 'unix:/run/s%[1]d', dest: 'unix:/run/d%[1]d', exec: PROG, needs: *x}\n"), "is the service itself"},
		"a chain":         {"services:\n" + many(300, "  s%[1]d: {bind: 'unix:/run/s%[1]d', dest: 'unix:/run/d%[1]d', exec: PROG, needs: [s1%[1]d]}\n"), "is no service of this file"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			_, err := someFile(t, tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%.300v\ndoes not say %s", err, tt.want)
			}
			if n := len(fmt.Sprint(err)); n > (problemsMost+1)*1200 {
				t.Errorf("%d bytes are said about it", n)
			}
		})
	}
}

// A file of as many services as there may be is read at once, whatever they share.
func TestFileOfManyServices(t *testing.T) {
	for what, format := range map[string]string{
		"addresses": "  s%[1]d: {bind: '127.1.%[3]s:4000', dest: '127.2.%[3]s:4000', exec: PROG, group: g}\n",
		"a chain":   "  s%[1]d: {bind: 'unix:/run/s%[1]d', dest: 'localhost:%[2]d', exec: PROG, group: g, needs: [s%[4]d]}\n",
	} {
		var b strings.Builder
		b.WriteString("groups: {g: {children: 1000, memory: 1TiB}}\ndefaults: {uses: {memory: 1MiB}}\nservices:\n")
		for i := range servicesMost - 1 {
			fmt.Fprintf(&b, format, i, 10000+i, fmt.Sprintf("%d.%d", i/200, 1+i%200), i+1)
		}
		b.WriteString("  s999: {bind: ':4001', dest: 'localhost:4002', exec: PROG}\n")
		f, err := someFile(t, b.String())
		if err != nil || len(f.Services) != servicesMost {
			t.Errorf("%s: %d services, %.300v", what, len(f.Services), err)
		}
	}
}

func TestFileThatIsNoText(t *testing.T) {
	for text, want := range map[string]string{
		"services:\n  ä: \xff\n": "tiproxy.yaml:2:6 is not UTF-8",
		"\xff\xfes\x00e\x00":     "1:1 is not UTF-8",
		"null\n":                 "is empty",
		"---\n...\n":             "is empty",
		"services\n":             `1:1 is "services": write services,`,
		"services: {a: }\n":      "services.a is empty",
		"? [a, b]\n: c\n":        "has a key that is a list",
		"services: {a: {exec: !!binary aGk=, dest: !x y}}":                                             "services.a.exec is binary: write text",
		"services: {a: {dest: !x y, exec: PROG}}":                                                      `services.a.dest has the tag "!x"`,
		"services:\n  a: {dest: 127.0.0.1:{port}, exec: PROG}\n":                                       `quote what has {port} in it`,
		"services:\n  a: {dest: '127.0.0.1:3000', exec: PROG, args: [{port}]}\n":                       `services.a.args[0] is a set of KEY: VALUE pairs to YAML (quote it: "{port}")`,
		"services:\n  a:\n    dest: 127.0.0.1:3000\n   exec: PROG\n":                                   "tiproxy.yaml:4:4 is no YAML",
		"services:\n  a:\n    exec: PROG\n\t    dest: 127.0.0.1:3000\n":                                "tiproxy.yaml:4:1 is indented by a tab",
		"services: {a: {dest: '127.0.0.1:3000', exec: PROG, args: [\"a\\0b\"]}}":                       "argument 1 contains a NUL byte",
		"services: {a: {dest: '127.0.0.1:3000', exec: PROG, env: {'A=B': c}}}":                         `services.a.env has the name "A=B"`,
		"services: {a: {dest: '127.0.0.1:3000', exec: PROG, env: {A: }}}":                              "services.a.env.A is empty",
		"services: {a: {dest: '127.0.0.1:3000', exec: PROG, idle: *none}}":                             "is no YAML",
		"services: {a: {dest: '127.0.0.1:3000', exec: \"PROG --port 3000\"}}":                          "arguments go into args: write exec: ",
		"services: {a: {dest: '192.0.2.1:3000', exec: PROG, ready: listen}}":                           "where ready: listen could see it: write ready: dial",
		"services: {a: {dest: '127.0.0.1:3000', exec: PROG, quiet-policy: close}}":                     "add quiet, for example quiet: 5m",
		"services: {a: {dest: '127.0.0.1:3000', exec: PROG, path: inherit}}":                           "with path: inherit the child takes its clients from bind itself: leave dest out",
		"defaults: {idle: 5}\nservices: {a: {dest: '127.0.0.1:3000', exec: PROG, idle: 1m}}":           `defaults.idle: "5" has no unit`,
		"defaults: {args: [x], logs: y}\nservices: {a: {dest: '127.0.0.1:3000', exec: PROG}}":          "defaults.args is every service's own",
		"services: {a: {dest: '127.0.0.1:3000', exec: PROG, bind: '127.0.0.1:{port}'}}":                "services.a.bind has {port} in it, which goes into dest, args, env and ready only",
		"services: {a: {dest: '127.0.0.1:3000', exec: PROG, args: ['{port}']}}":                        "services.a.args[0] has {port}, the port on which the child listens, but dest has not",
		"services: {a: {exec: PROG, args: ['{port}'], path: inherit}}":                                 "with path: inherit the child is handed its socket",
		"services: {a: {dest: '127.0.0.1:3000', exec: PROG}, b: {dest: '127.0.0.1:3001', exec: PROG}}": "services.b.bind: 127.0.0.1:4000, the default, is where service a takes its clients",
	} {
		_, err := someFile(t, text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\n%v\ndoes not say %s", text, err, want)
		}
		for _, bad := range []string{"yaml.", "!!", "config.", "%!", "map[", " --", "cannot unmarshal"} {
			if strings.Contains(text, bad) {
				continue // in words of the file
			}
			if strings.Contains(fmt.Sprint(err), bad) {
				t.Errorf("%q speaks of %s: %v", text, bad, err)
			}
		}
	}
}

// Every problem of a file says where it is, for programs as for people.
func TestFileProblemsHavePlaces(t *testing.T) {
	_, err := someFile(t, "services:\n  a:\n    idel: 1m\n    idle: 5\n    exec: no-such-program\n")
	var lines []int
	for _, one := range unjoin(err) {
		p, ok := errors.AsType[*Problem](one)
		if !ok {
			t.Fatalf("%T: %v", one, one)
		}
		if !strings.HasPrefix(p.From, fmt.Sprintf("tiproxy.yaml:%d:%d", p.Line, p.Column)) {
			t.Errorf("%d:%d: %v", p.Line, p.Column, p)
		}
		lines = append(lines, p.Line)
	}
	if got := fmt.Sprint(lines); got != "[3 3 4 5]" {
		t.Errorf("lines %s:\n%v", got, err)
	}
}

func TestFileThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:                             "is a directory: name the file in it",
		filepath.Join(dir, "none.yaml"): "does not exist: name another with --config FILE",
		pipe:                            "is not a regular file",
		"\x00":                          "cannot read the configuration",
	} {
		if _, err := Load(path, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", path, err)
		}
	}
	secret := filepath.Join(dir, "secret.yaml")
	if err := os.WriteFile(secret, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(secret, Options{}); os.Getuid() != 0 && !errors.Is(err, os.ErrPermission) {
		t.Errorf("unreadable: %v", err)
	}
}

// A name is asked for once, however many services have it, and a name server that
// is silent does not hold up a file of many names.
func TestFileAsksForANameOnce(t *testing.T) {
	asked := map[string]int{}
	withLookup(t, func(_ context.Context, _, host string) ([]netip.Addr, error) {
		asked[host]++
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	})
	_, err := someFile(t, `services:
  a: {bind: "db.example:4001", dest: "db.example:3001", exec: PROG}
  b: {bind: "127.0.0.1:4001", dest: "db.example:3002", exec: PROG}
  c: {bind: "127.0.0.1:4003", dest: "web.example:3001", exec: PROG}
`)
	if n := len(unjoin(err)); n != 2 || asked["db.example"] != 1 || asked["web.example"] != 1 {
		t.Errorf("asked %v, %d mistakes: %v", asked, n, err)
	}
}

func withLookup(t testing.TB, fake func(context.Context, string, string) ([]netip.Addr, error)) {
	before := lookup
	lookup = fake
	t.Cleanup(func() { lookup = before })
}

// {port} is one port for a service, and none that the file speaks of.
func TestFilePortIsNobodyElses(t *testing.T) {
	calls := map[string]int{}
	f, err := Parse("f", []byte(`services:
  a: {bind: "${BIND}", dest: "127.0.0.1:{port}", exec: /bin/sh, args: ["{port}"], env: {P: "$${port} $$5 ${WORD}"}}
  b: {bind: 127.0.0.1:20001, dest: "127.0.0.1:{port}", exec: /bin/sh, ready: "http://127.0.0.1:{port}/"}
`), Options{
		Variable: func(name string) (string, bool) {
			return map[string]string{"BIND": "127.0.0.1:20000", "WORD": "{port}${X}"}[name], true
		},
		Port: func(service string, taken func(uint16) bool) (uint16, error) {
			calls[service]++
			for port := uint16(20000); ; port++ {
				if !taken(port) && (service == "a" || port != 20002) {
					return port, nil
				}
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	a, b := f.Services[0], f.Services[1]
	if a.Dest.Port != 20002 || a.Args[0] != "20002" || b.Dest.Port != 20003 || b.Ready.URLs[0].Port() != "20003" {
		t.Errorf("%v %v, %v %v", a.Dest, a.Args, b.Dest, b.Ready.URLs)
	}
	if want := "P=${port} $5 {port}${X}"; a.Env[0] != want {
		t.Errorf("%q, want %q", a.Env[0], want)
	}
}
