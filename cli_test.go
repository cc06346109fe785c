package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	someExec = []string{"--exec", "sh"}
	someDest = []string{"--dest", "127.0.0.1:3000"}
	both     = join(someDest, someExec...)
)

func join(words []string, more ...string) []string { return append(slices.Clone(words), more...) }

// wrongLines are command lines and what is said about them, line by line. DIR
// stands for a directory that holds a file without execute permission, plain.
var wrongLines = []struct {
	name string
	args []string
	env  []string
	want []string
}{
	{"nothing", nil, nil, []string{"--dest is missing", "--exec is missing"}},
	{"no dest", someExec, nil, []string{"--dest is missing: say where the child listens, for example 127.0.0.1:3000"}},
	{"no exec", someDest, nil, []string{"--exec is missing"}},
	{"only the child's", []string{"--", "--dest", "127.0.0.1:3000", "demo"}, nil, []string{"--dest is missing", "--exec is missing"}},
	{"empty dest", join([]string{"--dest", ""}, someExec...), nil, []string{"--dest is empty: write for example 127.0.0.1:3000"}},
	{"partial dest", join([]string{"--dest", ":3000"}, someExec...), nil, []string{"write 127.0.0.1:3000"}},
	{"dest without port", join([]string{"--dest=localhost"}, someExec...), nil, []string{"has no port"}},
	{"dest port 0", join([]string{"--dest", "127.0.0.1:0"}, someExec...), nil, []string{"port 0"}},
	{"dest is bind", join([]string{"--bind", ":3000"}, both...), nil, []string{"is where tiproxy itself listens (--bind :3000)"}},
	{"dest is the default bind", join([]string{"--dest", "localhost:4000"}, someExec...), nil, []string{"is where tiproxy itself listens (--bind 127.0.0.1:4000)"}},
	{"program not found", join([]string{"--exec", "no-such-program"}, someDest...), nil, []string{`"no-such-program" not found in PATH or in `}},
	{"program path not found", join([]string{"--exec", "./no/such"}, someDest...), nil, []string{"no/such not found: check the path"}},
	{"program is a directory", join([]string{"--exec", "DIR"}, someDest...), nil, []string{"DIR is a directory"}},
	{"program not executable", join([]string{"--exec", "DIR/plain"}, someDest...), nil, []string{"DIR/plain is not executable: chmod +x"}},
	{"program with arguments", join([]string{"--exec", "nc -l"}, someDest...), nil, []string{"write --exec nc -- -l"}},
	{"workdir missing", join([]string{"--workdir", "DIR/nope"}, both...), nil, []string{"--workdir: DIR/nope does not exist"}},
	{"workdir is a file", join([]string{"--workdir", "DIR/plain"}, both...), nil, []string{"DIR/plain is not a directory"}},
	{"no unit", join([]string{"--idle", "30"}, both...), nil, []string{`--idle: "30" has no unit: write 30s`}},
	{"negative", join([]string{"--stop-timeout=-1s"}, both...), nil, []string{"--stop-timeout: \"-1s\" is negative"}},
	{"signal", join([]string{"--stop-signal", "TREM"}, both...), nil, []string{"write one of TERM, INT"}},
	{"env", join([]string{"--env", "A"}, both...), nil, []string{`--env: "A" has no value: write A=VALUE`}},
	{"empty user", join([]string{"--user", ""}, both...), nil, []string{"--user is empty: write a user's name"}},
	{"unknown user", join([]string{"--user", "no-such-user"}, both...), nil, []string{`--user: there is no user "no-such-user": write one that`}},
	{"unknown group", join([]string{"--user", "root:no-such-group"}, both...), nil, []string{`there is no group "no-such-group"`}},
	{"group of a user without an entry", join([]string{"--user", "3999999999"}, both...), nil, []string{"no user has uid 3999999999, so its group is not known: write it too, such as 3999999999:3999999999"}},
	{"no user before the colon", join([]string{"--user", ":root"}, both...), nil, []string{`has no user: write for example "nobody:root"`}},
	{"no group behind the colon", join([]string{"--user", "root:"}, both...), nil, []string{`write "root" for the user's own group`}},
	{"no user at all", join([]string{"--user", "4294967295:0"}, both...), nil, []string{"4294967295 is no user or group number"}},
	{"ready", join([]string{"--ready", "http"}, both...), nil, []string{`--ready: "http" is not known: write listen, dial, http://HOST:PORT/PATH, exec:COMMAND, log:REGEX or notify`}},
	{"ready, three times", join([]string{"--ready", "log:(", "--ready", "notify", "--ready", "exec:"}, both...), nil, []string{`--ready: "(": missing closing ) at its end`, "--ready: there is no command"}},
	{"variable for ready", both, []string{"TIPROXY_READY=listen\nhttps://a/"}, []string{`TIPROXY_READY: "https://a/": tiproxy checks no certificates: write exec:curl`}},
	{"ready by tiproxy itself", join([]string{"--ready", "http://127.0.0.1:4000/health"}, both...), nil, []string{"is where tiproxy itself listens (--bind 127.0.0.1:4000), it would wait for itself"}},
	{"ready command not found", join([]string{"--ready", "exec:no-such-program -q"}, both...), nil, []string{`--ready: "no-such-program" not found in PATH or in `}},
	{"ready command for a shell", join([]string{"--ready", "exec:true && true"}, both...), nil, []string{"so & would mean nothing: quote it, or let a shell do it: exec:sh -c '...'"}},
	{"ready pattern", join([]string{"--ready", "log:[0-9"}, both...), nil, []string{`--ready: "[0-9": missing closing ] at character 1`}},
	{"ready by notify beside env", join([]string{"--ready", "notify", "--env", "NOTIFY_SOCKET=/x"}, both...), nil, []string{"--env: NOTIFY_SOCKET is set by tiproxy itself for --ready notify"}},
	{"allow", join([]string{"--allow", "10.0.0.0/8", "--allow", "10.0.0.1/8"}, both...), nil, []string{`--allow: "10.0.0.1/8" has bits behind its mask`}},
	{"empty allow", join([]string{"--allow", ""}, both...), nil, []string{"--allow has an empty place in its list"}},
	{"empty list of trust", join([]string{"--accept-proxy-protocol="}, both...), nil, []string{"--accept-proxy-protocol has an empty place in its list"}},
	{"empty env", join([]string{"--env", ""}, both...), nil, []string{"--env is empty: write KEY=VALUE"}},
	{"empty ready", join([]string{"--ready", ""}, both...), nil, []string{"--ready is empty: write listen"}},
	{"empty variable for allow", both, []string{"TIPROXY_ALLOW="}, []string{"TIPROXY_ALLOW has an empty place in its list: write networks"}},
	{"variable for deny", both, []string{"TIPROXY_DENY=10.0.0.0/8\nlocalhost"}, []string{`TIPROXY_DENY: "localhost" is a name`}},
	{"wake-on", join([]string{"--wake-on", "byte"}, both...), nil, []string{"--wake-on: \"byte\" is not known: write connect or data"}},
	{"wake-rate", join([]string{"--wake-rate", "5"}, both...), nil, []string{"--wake-rate: \"5\" is not a rate: write N/DURATION, for example 5/1m"}},
	{"quiet policy", join([]string{"--quiet-policy", "close"}, both...), nil, []string{"--quiet-policy is close, but nothing says when a connection is quiet: add --quiet"}},
	{"quiet policy and a wrong time", join([]string{"--quiet", "5", "--quiet-policy", "close"}, both...), nil, []string{"--quiet: \"5\" has no unit: write 5s"}},
	{"per source on a unix socket", join([]string{"--max-per-source", "5", "--bind", "unix:/run/x"}, both...), nil, []string{"clients of a unix socket have none (--bind unix:/run/x)"}},
	{"PROXY version", join([]string{"--proxy-protocol", "3"}, both...), nil, []string{"--proxy-protocol: \"3\" is not known: write v1 or v2"}},
	{"log format", join([]string{"--log-format", "xml"}, both...), nil, []string{"--log-format: \"xml\" is not known: write auto, text or json"}},
	{"path", join([]string{"--path", "straight"}, both...), nil, []string{`--path: "straight" is not known: write copy, direct, auto or inherit`}},
	{"direct with what it cannot do", join([]string{"--path", "direct", "--max-per-source", "3"}, both...), nil, []string{"--path is direct, but --max-per-source counts every connection: leave that out, or write --path auto or copy"}},
	{"log level", join([]string{"--log-level", "loud"}, both...), nil, []string{"write debug, info, warn or error"}},
	{"several", join([]string{"--idle", "30", "--log-level", "loud", "word"}, someDest...), nil,
		[]string{`leftover word "word"`, "--exec is missing", "--idle", "--log-level"}},
	{"unknown flag", join([]string{"--idel", "30s"}, both...), nil, []string{"unknown flag --idel: did you mean --idle?"}},
	{"flag of other programs", join([]string{"--listen", ":80"}, both...), nil, []string{"did you mean --bind?"}},
	{"short for long", join([]string{"--start=5s"}, both...), nil, []string{"did you mean --start-timeout?"}},
	{"nothing like it", join([]string{"--frobnicate"}, both...), nil, []string{"unknown flag --frobnicate: if it is for the child, put -- in front"}},
	{"one dash", []string{"-dest", "127.0.0.1:3000"}, nil, []string{"-dest: flags have two dashes: write --dest"}},
	{"one dash and =", []string{"-idle=3s"}, nil, []string{"write --idle"}},
	{"-help", []string{"-help"}, nil, []string{"write --help"}},
	{"the child's flag", join(both, "-l", "-k"), nil, []string{"unknown flag -l: if it is for the child, put -- in front"}},
	{"leftover", join(both, "a", "b"), nil, []string{`leftover word "a": if it is for the child, put -- in front of the child's arguments: -- a b`}},
	{"misspelt command", []string{"demmo"}, nil, []string{"did you mean tiproxy demo?", "--dest is missing", "--exec is missing"}},
	{"a command behind flags", join(both, "demo"), nil, []string{`tiproxy demo has no flag --dest: if "demo" is for the child, put -- in front of it`}},
	{"no value", []string{"--dest"}, nil, []string{"--dest needs a value: write --dest ADDR"}},
	{"swallowed flag", []string{"--dest", "--exec", "sh"}, nil, []string{"--dest needs a value, but --exec comes behind it"}},
	{"no flag at all", []string{"--=3"}, nil, []string{"is not a flag"}},
	{"variable", both, []string{"TIPROXY_IDLE=30"}, []string{`TIPROXY_IDLE: "30" has no unit: write 30s`}},
	{"variable for env", both, []string{"TIPROXY_ENV=A=1\nB\n"}, []string{`TIPROXY_ENV: "B" has no value`}},
	{"misspelt variable", someExec, []string{"TIPROXY_DST=127.0.0.1:3000"}, []string{"did you mean TIPROXY_DEST?", "--dest is missing"}},
	{"too many connections", join([]string{"--max-connections", "2000000000"}, both...), nil, []string{"(ulimit -n): raise it or write at most "}},
	{"far dest", join([]string{"--dest", "203.0.113.1:80"}, someExec...), nil, []string{"write --ready dial"}},
	{"newline", join([]string{"--workdir", "/a\nb"}, both...), nil, []string{`/a\nb does not exist`}},
	{"orders for the terminal", []string{"--\x1b]0;title\a\u009b31m\u202e\x9b"}, nil, []string{"unknown flag --\\x1b]0;title\\a\\u009b31m\\u202e\\x9b: if it"}},
	{"words for completion", []string{"completion", "bash", "x"}, nil, []string{`unknown command "x"`}},
	{"words for the demo", []string{"demo", "x"}, nil, []string{`leftover word "x": tiproxy demo brings its own server`}},
	{"words for the demo's child", []string{"demo", "--", "x"}, nil, []string{`leftover word "x"`}},
	{"bad idle for the demo", []string{"demo", "--idle", "5"}, nil, []string{`--idle: "5" has no unit`}},
}

func TestCommandLine_WrongOnesSayWhatWouldBeRight(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "plain"), nil, 0o644))
	for _, tt := range wrongLines {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var args []string
			for _, arg := range tt.args {
				args = append(args, strings.ReplaceAll(arg, "DIR", dir))
			}
			r := start(t, tt.env, args...)
			r.exits(exitUsage)
			lines := strings.Split(strings.TrimSuffix(r.stderr.text(), "\n"), "\n")
			if len(lines) != len(tt.want)+1 || lines[len(lines)-1] != "see tiproxy --help" {
				t.Fatalf("%d lines, want %d and a hint", len(lines), len(tt.want))
			}
			for i, want := range tt.want {
				want = strings.ReplaceAll(want, "DIR", dir)
				if !strings.HasPrefix(lines[i], "tiproxy: ") || !strings.Contains(lines[i], want) {
					t.Errorf("line %q does not say %q", lines[i], want)
				}
			}
			if out := r.stdout.text(); out != "" {
				t.Errorf("stdout holds %q", out)
			}
		})
	}
}

func TestCommandLine_WrongOneOpensNothing(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	started := filepath.Join(dir, "started")
	r := start(t, nil, "--bind", "unix:"+dir+"/bind", "--dest", "unix:"+dir+"/dest", "--idle", "30", "--exec", "touch", "--", started)
	r.exits(exitUsage)
	if files, _ := os.ReadDir(dir); len(files) > 0 {
		t.Errorf("a wrong command line made %v", files)
	}
}

func TestHelp_ShowsExamplesFirst(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"--help", "-h", "help"} {
		r := start(t, nil, arg)
		r.exits(exitStopped)
		text := r.stdout.text()
		last := -1
		for _, part := range []string{
			"Examples:", "tiproxy --dest 127.0.0.1:3000 --exec ncat --workdir /usr/sbin -- -l -k -p 3000 -4 -v\n", "-v --broker\n",
			"Usage:", "  --bind ADDR ", "  --exec PROGRAM ", "  --idle DURATION ", "(default: 1m)", "--version", "TIPROXY_START_TIMEOUT=5m", "Exit status:",
		} {
			at := strings.Index(text, part)
			if at <= last {
				t.Errorf("tiproxy %s: %q is missing or comes too early", arg, part)
			}
			last = max(last, at)
		}
		for _, s := range settings() {
			if !strings.Contains(text, "\n  --"+s.Name+" "+s.Arg) {
				t.Errorf("tiproxy %s does not show --%s %s", arg, s.Name, s.Arg)
			}
		}
		if r.stderr.text() != "" {
			t.Errorf("tiproxy %s writes to stderr", arg)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	r := start(t, nil, "--version")
	r.exits(exitStopped)
	for _, part := range []string{"tiproxy ", "commit ", "go1."} {
		if !strings.Contains(r.stdout.text(), part) || strings.Count(r.stdout.text(), "\n") != 1 {
			t.Errorf("%q is not one line with %q", r.stdout.text(), part)
		}
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		r := start(t, nil, "completion", shell)
		r.exits(exitStopped)
		if !strings.Contains(r.stdout.text(), "tiproxy") {
			t.Errorf("no completion for %s", shell)
		}
	}
	for begun, want := range map[string]string{
		"":   "listen\ndial\nhttp://\nexec:\nlog:\nnotify\n:6\n", // 2 = no space, 4 = no files
		"l":  "listen\nlog:\n:6\n",
		"li": "listen\n:4\n",
	} {
		r := start(t, nil, "__complete", "--ready", begun)
		r.exits(exitStopped)
		if r.stdout.text() != want {
			t.Errorf("--ready %s is completed to %q, want %q", begun, r.stdout.text(), want)
		}
	}
}

func TestArgs_ReachTheChildByteForByte(t *testing.T) {
	t.Parallel()
	words := []string{"demo", "--", "--help", "--dest", "-h", "help", "completion", "__complete", "", "a b", "$HOME`id`;|&*?", "line\nline", "\xff\xfe", "--idle=30", "ü"}
	r := start(t, nil, append(serving(t, "prints", "--env", "LINES=a\r\nb"), words...)...)
	says(t, r.dial(), "hello")
	var got struct{ Args, Env []string }
	if !poll(func() bool { return json.Unmarshal([]byte(r.stdout.text()), &got) == nil }) {
		t.Fatalf("the child printed %q", r.stdout.text())
	}
	if !slices.Equal(got.Args, toHex(words)) {
		t.Errorf("the child got %q, want %q", got.Args, toHex(words))
	}
	if !slices.Contains(got.Env, "LINES=a\r\nb") {
		t.Errorf("the child's environment is %q", got.Env)
	}
	if first := r.stderr.text(); strings.Contains(first, "$HOME") {
		t.Error("arguments are in the log")
	}
}

func TestEnvironment_StandsForFlags(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	env := []string{
		"TIPROXY_BIND=127.0.0.1:0", "TIPROXY_DEST=unix:" + dir + "/child", "TIPROXY_EXEC=" + self(), "TIPROXY_WORKDIR=" + dir,
		"TIPROXY_ENV=" + roleVariable + "=child\nA=1,2\nB=", "TIPROXY_IDLE=50ms", "TIPROXY_LOG_LEVEL=error", "TIPROXY_STOP_TIMEOUT=",
		"TIPROXY_CHILD=outer.1@1.1", "TIPROXY_IDEL=3s", "TIPROXY_XYZZY=1", "LISTEN_FDS=1", "NOTIFY_SOCKET=/x",
	}
	r := start(t, env, "--log-level", "info", "--", "prints", "unix", dir+"/child")
	first := r.logged("unknown environment variable", 1)
	if first["name"] != "TIPROXY_IDEL" || first["did_you_mean"] != "TIPROXY_IDLE" || first["level"] != "WARN" {
		t.Errorf("warning %v", first)
	}
	if second := r.logged("unknown environment variable", 2); second["name"] != "TIPROXY_XYZZY" || second["did_you_mean"] != nil {
		t.Errorf("warning %v", second)
	}
	c := r.dial()
	says(t, c, "hello")
	c.Close()
	r.logged(msgClosed, 1) // TIPROXY_IDLE
	if r.find("unknown environment variable", 3) != nil {
		t.Error("a third variable is said to be unknown")
	}
	var got struct{ Env []string }
	must(t, json.Unmarshal([]byte(r.stdout.text()), &got))
	for _, kv := range []string{"A=1,2", "B="} {
		if !slices.Contains(got.Env, kv) {
			t.Errorf("the child has no %s", kv)
		}
	}
	for _, kv := range got.Env {
		if strings.HasPrefix(kv, "LISTEN_") || strings.HasPrefix(kv, "NOTIFY_") || strings.HasPrefix(kv, envPrefix) && !strings.HasPrefix(kv, childMark+"=") {
			t.Errorf("the child has %s", kv)
		}
	}
}

func TestEnvironment_FlagsWin(t *testing.T) {
	t.Parallel()
	r := start(t, []string{"TIPROXY_BIND=not an address", "TIPROXY_IDLE=30", "TIPROXY_ENV=broken"}, serving(t, "serves", "--idle", "1m")...)
	says(t, r.dial(), "hello")
}

func TestClosest(t *testing.T) {
	t.Parallel()
	known := []string{"bind", "dest", "exec", "idle", "start-timeout", "stop-timeout", "log-level"}
	for name, want := range map[string]string{
		"idel": "idle", "dets": "dest", "exce": "exec", "bin": "bind", "starttimeout": "start-timeout", "stop_timeout": "stop-timeout",
		"start": "start-timeout", "stop": "stop-timeout", "loglevel": "log-level", "target": "dest", "cmd": "exec", "verbose": "log-level",
		"xyzzy": "", "i": "", "": "", "frobnicate": "", "DEST": "dest",
	} {
		if got := closest(name, known); got != want {
			t.Errorf("closest(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestReadable(t *testing.T) {
	t.Parallel()
	for in, want := range map[time.Duration]string{
		0: "0s", 12345678: "12.3ms", 1234: "1.23µs", 999999999: "1s", 61234 * time.Millisecond: "1m1.2s", 123456 * time.Millisecond: "2m3s",
		3*time.Hour + 1499*time.Millisecond: "3h0m1s", 7: "7ns", -12345678: "-12.3ms",
	} {
		if got := readable(in).String(); got != want {
			t.Errorf("readable(%d) = %s, want %s", in, got, want)
		}
	}
}

func TestLines_BeginAtTheStartOfALine(t *testing.T) {
	t.Parallel()
	type step struct {
		child bool
		text  string // "" lets the grace pass
	}
	says, logs := func(s string) step { return step{true, s} }, func(s string) step { return step{false, s} }
	grace := step{}
	long := strings.Repeat("x", heldMax) + "\n"
	for name, tt := range map[string]struct {
		steps []step
		want  string
	}{
		"whole lines pass at once":      {[]step{logs("A\n"), says("one\n"), logs("B\n")}, "A\none\nB\n"},
		"a line in pieces stays whole":  {[]step{says("Ncat: "), logs("A\n"), logs("B\n"), says("Listening\n"), logs("C\n")}, "Ncat: Listening\nA\nB\nC\n"},
		"the log comes before the rest": {[]step{says("tw"), logs("A\n"), says("o\nthr"), logs("B\n"), says("ee\n")}, "two\nA\nthree\nB\n"},
		"a prompt is broken":            {[]step{says("> "), logs("A\n"), grace, logs("B\n"), says("go\n")}, "> \nA\nB\ngo\n"},
		"nothing follows":               {[]step{says("> "), logs("A\n")}, "> \nA\n"},
		"much log does not wait":        {[]step{says("> "), logs(long), says("go\n")}, "> \n" + long + "go\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out strings.Builder
				l := &lines{w: &out}
				for _, s := range tt.steps {
					if s == grace {
						time.Sleep(lineGrace)
						synctest.Wait()
						continue
					}
					var to io.Writer = l
					if s.child {
						to = (*pieces)(l)
					}
					if n, err := to.Write([]byte(s.text)); n != len(s.text) || err != nil {
						t.Errorf("write of %q returns %d, %v", s.text, n, err)
					}
				}
				l.flush()
				if out.String() != tt.want {
					t.Errorf("%q, want %q", out.String(), tt.want)
				}
				time.Sleep(lineGrace) // the timers end with the test
			})
		})
	}
}
