package config

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ready is what Check makes of some ways to recognise readiness.
func ready(t *testing.T, ways ...string) (Ready, error) {
	t.Helper()
	in := text(t)
	for _, w := range ways {
		in.Ready = append(in.Ready, given("ready", w))
	}
	got, err := Check(in)
	return got.Ready, err
}

func TestReady_ListenIsAskedUnlessDialIsNamed(t *testing.T) {
	t.Parallel()
	if !onLinux {
		t.Skip("readiness by listen exists on Linux only")
	}
	for _, tt := range []struct {
		ways         []string
		listen, dial bool
	}{
		{nil, true, false},
		{[]string{"listen"}, true, false},
		{[]string{"dial"}, false, true},
		{[]string{"dial", "listen"}, true, true},
		{[]string{"log:x"}, true, false},
		{[]string{"log:x", "dial"}, false, true},
		{[]string{"notify", "http://127.0.0.1:3000/"}, true, false},
	} {
		got, err := ready(t, tt.ways...)
		if err != nil || got.Listen != tt.listen || got.Dial != tt.dial {
			t.Errorf("%q: listen %v, dial %v, %v; want %v and %v", tt.ways, got.Listen, got.Dial, err, tt.listen, tt.dial)
		}
	}
}

func TestReady_AllThatIsNamedIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	prog := program(t, dir, "prog", 0o755)
	got, err := ready(t, "http://[::1]:3000/a?b=c", "log:^ready [0-9]+$", "exec:"+prog+" -q 'a b'", "log:x", "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	var urls, lines []string
	for _, u := range got.URLs {
		urls = append(urls, u.String())
	}
	for _, re := range got.Lines {
		lines = append(lines, re.String())
	}
	if want := []string{"http://[::1]:3000/a?b=c", "http://localhost"}; !slices.Equal(urls, want) {
		t.Errorf("URLs %q, want %q", urls, want)
	}
	if want := []string{"^ready [0-9]+$", "x"}; !slices.Equal(lines, want) {
		t.Errorf("patterns %q, want %q", lines, want)
	}
	want := []Command{{Path: prog, Args: []string{prog, "-q", "a b"}}}
	if diff := cmp.Diff(want, got.Commands); diff != "" || got.Notify {
		t.Errorf("notify %v, commands (-want +got):\n%s", got.Notify, diff)
	}
}

func TestReady_WrongOnesSayWhatWouldBeRight(t *testing.T) {
	t.Parallel()
	for way, want := range map[string]string{
		"":                           "is empty: write listen, dial",
		"lisen":                      `"lisen" is not known: write listen, dial, http://HOST:PORT/PATH, exec:COMMAND, log:REGEX or notify`,
		"http":                       `"http" is not known`,
		"http:3000":                  `"http:3000" is not known`,
		"log":                        `"log" is not known`,
		"Listen":                     `"Listen" is not known`,
		"log:a\x00b":                 "NUL",
		"https://127.0.0.1:3000/x":   "tiproxy checks no certificates: write exec:curl -fsS -o /dev/null https://127.0.0.1:3000/x",
		"HTTPS://a":                  "no certificates",
		"http:///health":             "has no host",
		"http://:3000/":              "has no host",
		"http:/127.0.0.1:3000":       "has no host",
		"http://127.0.0.1:/":         "has no port behind its colon: write for example http://127.0.0.1:3000/",
		"http://127.0.0.1:0/":        "port 0 is none: write 1 to 65535",
		"http://127.0.0.1:70000/":    "port 70000 is none",
		"http://127.0.0.1:http/":     `is not a URL (invalid port ":http" after host)`,
		"http://127.0.0.1/a b":       "has blanks or control characters in it",
		"http://127.0.0.1/%zz":       `is not a URL (invalid URL escape "%zz")`,
		"http://127.0.0.1:3000/#top": "what is behind # is never sent",
		"http://127.0.0.1:3000/#":    "what is behind # is never sent",
		"http://127.0.0.1:4000/":     "http://127.0.0.1:4000/ is where tiproxy itself listens (--bind 127.0.0.1:4000), it would wait for itself",
		"http://u:pw@localhost:4000": "http://u:xxxxx@localhost:4000 is where tiproxy itself listens",
		"exec:":                      "there is no command",
		"exec:  ":                    "there is no command",
		"exec:''":                    "begins with an empty word",
		"exec:sh 'a":                 "a quote (') is not closed",
		`exec:sh "a`:                 `a quote (") is not closed`,
		`exec:sh a\`:                 "ends with a lone backslash",
		"exec:sh a|b":                "no shell reads this, so | would mean nothing: quote it, or let a shell do it: exec:sh -c '...'",
		`exec:sh "$HOME"`:            "so $ would mean nothing",
		"exec:no-such-program -q":    `"no-such-program" not found in PATH or in `,
		"exec:./no/such":             "no/such not found: check the path",
		"log:":                       "has no pattern",
		"log:a(b":                    `"a(b": missing closing ) at its end`,
		"log:ü)":                     `"ü)": unexpected ) at character 2`,
		`log:a\*(*b)`:                "missing argument to repetition operator at character 5",
		"log:[z-a]":                  "invalid character class range at character 2",
		"log:x[a":                    "missing closing ] at character 2",
		`log:\d\y`:                   "invalid escape sequence at character 3",
		`log:\`:                      `trailing backslash at end of expression at its end`,
		"log:a(?=b)":                 "invalid or unsupported Perl syntax at character 2: RE2 knows no (?=",
		"log:\xff":                   "invalid UTF-8",
		"log:a{1001}":                "invalid repeat count at character 2",
		"log:" + strings.Repeat("a", 2000) + "**": `invalid nested repetition operator in "**"`,
	} {
		_, err := ready(t, "notify", way)
		if err == nil || !strings.HasPrefix(err.Error(), "--ready") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v; want one line with %q", way, err, want)
		}
	}
}

func TestReady_TheCommandIsFoundAsTheChildIs(t *testing.T) {
	dir, bin, work := t.TempDir(), t.TempDir(), t.TempDir()
	t.Chdir(dir)
	t.Setenv("PATH", bin)
	here, inPath, inWork := program(t, dir, "here", 0o755), program(t, bin, "path", 0o755), program(t, work, "work", 0o755)
	program(t, bin, "plain", 0o644)
	for written, want := range map[string]string{"./here": here, "path": inPath, "work": inWork} {
		in := text(t)
		in.Workdir = given("workdir", work)
		in.Ready = []Value{given("ready", "exec:"+written+" a")}
		got, err := Check(in)
		if err != nil {
			t.Fatal(err)
		}
		if cmd := got.Ready.Commands[0]; cmd.Path != want || cmd.Args[0] != written {
			t.Errorf("%s is %+v, want the path %s", written, cmd, want)
		}
	}
	in := text(t)
	in.Ready = []Value{given("ready", "exec:plain")}
	wantError(t, in, "--ready: "+filepath.Join(bin, "plain")+" is not executable")
}

func TestReady_NotifyNeedsItsVariable(t *testing.T) {
	t.Parallel()
	in := text(t)
	in.Env = []Value{given("env", "NOTIFY_SOCKET=/run/x")}
	if _, err := Check(in); err != nil {
		t.Errorf("without notify the variable is the user's: %v", err)
	}
	in.Ready = []Value{given("ready", "notify")}
	wantError(t, in, "--env: NOTIFY_SOCKET is set by tiproxy itself for --ready notify")
}

func TestSplitWords(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"a":                        {"a"},
		" a\tb\n c ":               {"a", "b", "c"},
		`a 'b c' "d e" f\ g`:       {"a", "b c", "d e", "f g"},
		`a '' "" b`:                {"a", "", "", "b"},
		`a'b'"c"\d`:                {"abcd"},
		`sh -c 'a | b && $c "d"'`:  {"sh", "-c", `a | b && $c "d"`},
		`a "b|c;d&e<f>g(h)'i'"`:    {"a", `b|c;d&e<f>g(h)'i'`},
		`a "\$ \" \\ \n" \$ \' \\`: {"a", `$ " \ \n`, "$", "'", `\`},
		`a *.c ?x ~ #y !z {a,b}`:   {"a", "*.c", "?x", "~", "#y", "!z", "{a,b}"},
		"ü 'ö ä'":                  {"ü", "ö ä"},
	} {
		got, err := SplitWords(in)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("SplitWords(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

// quoted writes words so that they are split into what they were.
func quoted(words []string) string {
	var out []string
	for _, w := range words {
		out = append(out, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
	}
	return strings.Join(out, " ")
}

func FuzzSplitWords(f *testing.F) {
	for _, s := range []string{"a b", `a 'b c'`, `"a\"b" c\ d`, "a|b", `''`, `a "$b"`, `\`, "a '' \"\""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		words, err := SplitWords(s)
		if err != nil {
			oneLine(t, err)
			return
		}
		if len(words) == 0 || words[0] == "" {
			t.Fatalf("%q has no program: %q", s, words)
		}
		if again, err := SplitWords(quoted(words)); err != nil || !slices.Equal(again, words) {
			t.Fatalf("%q is split into %q, which quoted is split into %q, %v", s, words, again, err)
		}
	})
}

func FuzzReady(f *testing.F) {
	for _, s := range []string{"listen", "dial", "notify", "http://127.0.0.1:3000/health", "http://[::1]:80?x", "exec:true", "exec:sh -c 'a|b'", "log:ready for (.*)$", "log:(", "https://a", "http://a:0", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var r Ready
		if err := r.add(s, "/"); err != nil {
			oneLine(t, err)
			return
		}
		named := 0
		for _, b := range []bool{r.Listen, r.Dial, r.Notify} {
			if b {
				named++
			}
		}
		if named += len(r.URLs) + len(r.Commands) + len(r.Lines); named != 1 {
			t.Fatalf("%q names %d ways: %+v", s, named, r)
		}
		for _, u := range r.URLs {
			if a := urlAddr(u); u.Scheme != "http" || a.Host == "" || a.Port == 0 {
				t.Fatalf("%q is read as the URL %s at %s", s, u, a)
			}
		}
		for _, c := range r.Commands {
			if !filepath.IsAbs(c.Path) || len(c.Args) == 0 {
				t.Fatalf("%q is read as the command %+v", s, c)
			}
		}
	})
}
