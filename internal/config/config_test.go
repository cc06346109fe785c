package config

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// given is a setting as the command line would hand it over.
func given(name, text string) Value { return Value{From: "--" + name, Text: text, Given: true} }

// text is the least that makes a service, with every name filled in.
func text(t *testing.T) Text {
	t.Helper()
	left := func(name string) Value { return Value{From: "--" + name} }
	return Text{
		Bind: left("bind"), Dest: given("dest", "127.0.0.1:3000"),
		Exec: given("exec", program(t, t.TempDir(), "server", 0o755)), Workdir: left("workdir"),
		Idle: left("idle"), StartTimeout: left("start-timeout"), StopTimeout: left("stop-timeout"),
		StopSignal: left("stop-signal"), DrainTimeout: left("drain-timeout"),
		MaxConnections: left("max-connections"),
	}
}

// program creates a file and returns its path.
func program(t *testing.T, dir, name string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantError(t *testing.T, in Text, parts ...string) {
	t.Helper()
	s, err := Check(in)
	if err == nil {
		t.Fatalf("Check accepts %+v", s)
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(parts) {
		t.Fatalf("%d problems, want %d:\n%v", len(lines), len(parts), err)
	}
	for i, part := range parts {
		if !strings.Contains(lines[i], part) {
			t.Errorf("problem %q does not say %q", lines[i], part)
		}
	}
}

func TestCheck_Defaults(t *testing.T) {
	t.Parallel()
	in := text(t)
	got, err := Check(in)
	if err != nil {
		t.Fatal(err)
	}
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	want := Service{
		Name: "default",
		Bind: Addr{Network: "tcp", Host: "127.0.0.1", Port: 4000},
		Dest: Addr{Network: "tcp", Host: "127.0.0.1", Port: 3000},
		Exec: in.Exec.Text, Path: in.Exec.Text, Workdir: cwd,
		Idle: time.Minute, StartTimeout: time.Minute, StopTimeout: 20 * time.Second,
		StopSignal: syscall.SIGTERM, DrainTimeout: 5 * time.Second,
		MaxConnections: got.MaxConnections, Ready: Ready{Listen: DefaultReady() == ReadyListen, Dial: DefaultReady() == ReadyDial},
		BytePath: PathCopy,
		Controls: Controls{WakeOn: WakeOnConnect, QuietPolicy: QuietKeep},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults differ from the contract (-want +got):\n%s", diff)
	}
	if got.MaxConnections != defaultConnections(descriptorLimit()) {
		t.Errorf("max connections %d", got.MaxConnections)
	}
}

func TestCheck_TellsEveryMistakeAtOnce(t *testing.T) {
	t.Parallel()
	in := text(t)
	in.Bind = given("bind", "4000")
	in.Dest = Value{From: "--dest"}
	in.Exec = Value{From: "--exec"}
	in.Workdir = given("workdir", "/does/not/exist")
	in.Env = []Value{given("env", "A=1"), given("env", "B")}
	in.Idle = Value{From: "TIPROXY_IDLE", Text: "30", Given: true}
	in.StartTimeout = given("start-timeout", "-1s")
	in.StopTimeout = given("stop-timeout", "")
	in.DrainTimeout = given("drain-timeout", "soon")
	in.StopSignal = given("stop-signal", "TREM")
	in.MaxConnections = given("max-connections", "0")
	in.Ready = []Value{given("ready", "http")}
	wantError(t, in,
		`--bind: "4000" is only a port`, "--dest is missing: say where the child listens", "--workdir: /does/not/exist does not exist",
		"--exec is missing", `--env: "B" has no value`, `TIPROXY_IDLE: "30" has no unit: write 30s`, "--start-timeout", "--stop-timeout is empty",
		"--stop-signal", "--drain-timeout", "--max-connections: 0 is too small", "--ready: \"http\" is not known: write listen, dial, http://HOST:PORT/PATH")
	_, err := Check(in)
	var p *Problem
	if !errors.As(err, &p) || p.From != "--bind" {
		t.Errorf("%v holds no *Problem with the first setting", err)
	}
}

func TestCheck_Args(t *testing.T) {
	t.Parallel()
	in := text(t)
	in.Args = []string{"--", "demo", "a b", "$HOME;`x`", "", "\xff\n"}
	got, err := Check(in)
	if err != nil || !cmp.Equal(got.Args, in.Args) {
		t.Errorf("args %q, %v; want them unchanged: %q", got.Args, err, in.Args)
	}
	in.Args = []string{"a", "b\x00"}
	wantError(t, in, "argument 2 contains a NUL byte")
}

func TestCheck_Program(t *testing.T) {
	dir, bin, work := t.TempDir(), t.TempDir(), t.TempDir()
	t.Chdir(dir)
	t.Setenv("PATH", "relative:"+bin+"::"+filepath.Join(bin, "missing"))
	inDir := program(t, dir, "here", 0o755)
	inBin := program(t, bin, "both", 0o755)
	program(t, work, "both", 0o755)
	inWork := program(t, work, "onlywork", 0o755)
	program(t, bin, "shadow", 0o644)
	shadowed := program(t, work, "shadow", 0o755)
	program(t, dir, "plain", 0o644)
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	must(t, os.Symlink("loop", filepath.Join(dir, "loop")))

	for name, want := range map[string]string{
		"./here": inDir, inDir: inDir, "sub/../here": inDir,
		"both": inBin, "onlywork": inWork, "shadow": shadowed,
	} {
		in := text(t)
		in.Exec, in.Workdir = given("exec", name), given("workdir", work)
		if got, err := Check(in); err != nil || got.Path != want || got.Exec != name || got.Workdir != work {
			t.Errorf("--exec %s is %q in %q, %v; want %q in %q", name, got.Path, got.Workdir, err, want, work)
		}
	}
	for name, want := range map[string]string{
		"":              "--exec is empty",
		"./nope":        filepath.Join(dir, "nope") + " not found",
		"nope":          `"nope" not found in PATH or in ` + work + ": install it or write its path",
		"here":          `it is in the current directory: write ./here`,
		"./sub":         "is a directory",
		"sub":           `"sub" not found in PATH`,
		"./plain":       "is not executable: chmod +x " + filepath.Join(dir, "plain"),
		"./dangling":    "symbolic link to something that does not exist",
		"./loop":        "too many levels of symbolic links",
		"./here/x":      "not a directory",
		"nope -l -k":    "arguments go behind --: write --exec nope -- -l -k",
		"./nope -p 1":   "arguments go behind --: write --exec ./nope -- -p 1",
		"/dev/null":     "is not a regular file",
		"./a\x00b":      "NUL",
		"./" + longName: "name too long",
	} {
		in := text(t)
		in.Exec, in.Workdir = given("exec", name), given("workdir", work)
		wantError(t, in, want)
	}
}

var longName = strings.Repeat("x", 300)

func TestCheck_ProgramFoundButNotExecutable(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	path := program(t, bin, "server", 0o644)
	in := text(t)
	in.Exec = given("exec", "server")
	wantError(t, in, path+" is not executable")
}

func TestCheck_Workdir(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	must(t, os.Mkdir("sub", 0o755))
	file := program(t, dir, "file", 0o755)
	in := text(t)
	in.Workdir = given("workdir", "sub")
	if got, err := Check(in); err != nil || got.Workdir != filepath.Join(dir, "sub") {
		t.Errorf("workdir %q, %v", got.Workdir, err)
	}
	for name, want := range map[string]string{
		"":       "--workdir is empty",
		"nope":   filepath.Join(dir, "nope") + " does not exist",
		"file":   file + " is not a directory: write one, for example " + dir,
		"file/x": "not a directory",
		"\x00":   "NUL",
	} {
		in.Workdir = given("workdir", name)
		wantError(t, in, want)
	}
}

func TestCheck_DestIsBind(t *testing.T) {
	t.Parallel()
	same := [][2]string{
		{"127.0.0.1:4000", "127.0.0.1:4000"}, {"127.0.0.1:4000", "127.0.0.1:04000"}, {"127.0.0.1:4000", "[::ffff:127.0.0.1]:4000"},
		{"127.0.0.1:4000", "localhost:4000"}, {"127.0.0.1:4000", "LOCALHOST:4000"}, {"localhost:4000", "127.0.0.1:4000"},
		{":4000", "127.0.0.1:4000"}, {":4000", "127.9.9.9:4000"}, {":4000", "[::1]:4000"}, {":4000", "localhost:4000"},
		{"0.0.0.0:4000", "127.0.0.1:4000"}, {"[::]:4000", "127.0.0.1:4000"}, {"[::1]:4000", "[0:0::0:1]:4000"},
		{"0.0.0.0:4000", "[::ffff:127.0.0.1]:4000"}, {"[::1]:4000", "[::1%lo]:4000"}, {"[fe80::1%lo]:4000", "[fe80::1]:4000"}, {"no.such.name.invalid:4000", "No.such.name.invalid:4000"},
	}
	for _, ip := range ownAddresses(t) {
		same = append(same, [2]string{":4000", net.JoinHostPort(ip, "4000")}, [2]string{net.JoinHostPort(ip, "4000"), net.JoinHostPort(ip, "4000")})
	}
	for _, pair := range same {
		in := text(t)
		in.Bind, in.Dest = given("bind", pair[0]), given("dest", pair[1])
		wantError(t, in, "is where tiproxy itself listens (--bind")
	}
	for _, pair := range [][2]string{
		{"127.0.0.1:4000", "127.0.0.1:4001"}, {"127.0.0.1:4000", "127.0.0.2:4000"}, {":4000", "203.0.113.1:4000"}, {":4000", "[2001:db8::1]:4000"},
		{"0.0.0.0:4000", "[::1]:4000"}, {":0", "127.0.0.1:4000"}, {"unix:/tmp/a", "127.0.0.1:4000"},
		{":4000", "no.such.name.invalid:4000"},
	} {
		in := text(t)
		in.Bind, in.Dest, in.Ready = given("bind", pair[0]), given("dest", pair[1]), []Value{given("ready", "dial")}
		if _, err := Check(in); err != nil {
			t.Errorf("bind %s, dest %s: %v", pair[0], pair[1], err)
		}
	}
}

// ownAddresses are addresses of this machine beside loopback, if it has any.
func ownAddresses(t *testing.T) []string {
	t.Helper()
	list, err := net.InterfaceAddrs()
	must(t, err)
	var ips []string
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			ips = append(ips, n.IP.String())
		}
	}
	return ips
}

func TestCheck_DestIsBindUnix(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.Mkdir(filepath.Join(dir, "real"), 0o755))
	must(t, os.Symlink("real", filepath.Join(dir, "link")))
	program(t, filepath.Join(dir, "real"), "sock", 0o600)
	must(t, os.Symlink("real/sock", filepath.Join(dir, "socklink")))
	for _, dest := range []string{"real/sock", "link/sock", "socklink", "real/../link/sock", "./real//sock"} {
		in := text(t)
		in.Bind, in.Dest = given("bind", "unix:"+dir+"/real/sock"), given("dest", "unix:"+dir+"/"+dest)
		wantError(t, in, "give one of them another path")
	}
	in := text(t)
	in.Bind, in.Dest = given("bind", "unix:"+dir+"/real/new"), given("dest", "unix:"+dir+"/link/new")
	wantError(t, in, "is where tiproxy itself listens")
	in.Dest = given("dest", "unix:"+dir+"/link/newer")
	if _, err := Check(in); err != nil {
		t.Error(err)
	}
}

func TestCheck_ListenNeedsDestOnThisMachine(t *testing.T) {
	t.Parallel()
	if DefaultReady() != ReadyListen {
		t.Skip("readiness by listen exists on Linux only")
	}
	for _, dest := range []string{"203.0.113.1:80", "[2001:db8::1]:80"} {
		in := text(t)
		in.Dest = given("dest", dest)
		wantError(t, in, "--dest: "+dest+" is not on this machine, where --ready listen could see it: write --ready dial")
		in.Ready = []Value{given("ready", "dial")}
		if _, err := Check(in); err != nil {
			t.Error(err)
		}
	}
	for _, dest := range append(ownAddresses(t), "127.0.0.9", "localhost", "no.such.name.invalid") {
		in := text(t)
		in.Dest = given("dest", net.JoinHostPort(dest, "80"))
		if _, err := Check(in); err != nil {
			t.Errorf("%s: %v", dest, err)
		}
	}
}

func TestCheck_MaxConnections(t *testing.T) {
	t.Parallel()
	for limit, want := range map[uint64]int{
		1024: 384, 20000: 7500, 1 << 20: 50_000, ^uint64(0): 50_000, 0: 1, 10: 3,
	} {
		if got := defaultConnections(limit); got != want {
			t.Errorf("%d connections by default with a limit of %d, want %d", got, limit, want)
		}
	}
	for limit, want := range map[uint64]int{1024: 480, 100: 37, 64: 24, 0: 1, ^uint64(0): 1 << 30} {
		if got := mostConnections(limit); got != want {
			t.Errorf("at most %d connections with a limit of %d, want %d", got, limit, want)
		}
	}
	most := mostConnections(descriptorLimit())
	for in, want := range map[string]string{
		"": "is not a whole number", "many": "is not a whole number", "1.5": "is not a whole number", "-1": "too small",
		"99999999999999999999": "is not a whole number", fmt.Sprint(most + 1): fmt.Sprintf("write at most %d", most),
	} {
		x := text(t)
		x.MaxConnections = given("max-connections", in)
		wantError(t, x, want)
	}
	x := text(t)
	x.MaxConnections = given("max-connections", fmt.Sprint(most))
	if got, err := Check(x); err != nil || got.MaxConnections != most {
		t.Errorf("%d, %v", got.MaxConnections, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
