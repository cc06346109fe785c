package config

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

func TestParseAddr(t *testing.T) {
	t.Parallel()
	long := "/" + strings.Repeat("a", maxUnixPath-1)
	tests := []struct {
		in   string
		want Addr
		text string // when String differs from in
	}{
		{in: "127.0.0.1:3000", want: Addr{Network: "tcp", Host: "127.0.0.1", Port: 3000}},
		{in: ":4000", want: Addr{Network: "tcp", Port: 4000}},
		{in: ":0", want: Addr{Network: "tcp"}},
		{in: "0.0.0.0:1", want: Addr{Network: "tcp", Host: "0.0.0.0", Port: 1}},
		{in: "[::1]:65535", want: Addr{Network: "tcp", Host: "::1", Port: 65535}},
		{in: "[fe80::1%eth0]:80", want: Addr{Network: "tcp", Host: "fe80::1%eth0", Port: 80}},
		{in: "[::ffff:127.0.0.1]:80", want: Addr{Network: "tcp", Host: "::ffff:127.0.0.1", Port: 80}},
		{in: "localhost:03000", want: Addr{Network: "tcp", Host: "localhost", Port: 3000}, text: "localhost:3000"},
		{in: "my_db.internal.:80", want: Addr{Network: "tcp", Host: "my_db.internal.", Port: 80}},
		{in: "10.example:80", want: Addr{Network: "tcp", Host: "10.example", Port: 80}},
		{in: "unix:/run/a b.sock", want: Addr{Network: "unix", Path: "/run/a b.sock"}},
		{in: "unix:///run//./a", want: Addr{Network: "unix", Path: "/run/a"}, text: "unix:/run/a"},
		{in: "unix:/a/../b", want: Addr{Network: "unix", Path: "/a/../b"}},
		{in: "unix:" + long, want: Addr{Network: "unix", Path: long}},
	}
	for _, tt := range tests {
		got, err := ParseBind(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("ParseBind(%q) = %+v, %v; want %+v", tt.in, got, err, tt.want)
		}
		text := tt.text
		if text == "" {
			text = tt.in
		}
		if got.String() != text {
			t.Errorf("ParseBind(%q).String() = %q, want %q", tt.in, got, text)
		}
	}
}

func TestParseAddr_SaysWhatWouldBeRight(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in    string
		parse func(string) (Addr, error)
		want  string // part of the message
	}{
		{"", ParseBind, "is empty: write for example 127.0.0.1:4000"},
		{"", ParseDest, "is empty: write for example 127.0.0.1:3000"},
		{"127.0.0.1", ParseDest, "has no port"},
		{"127.0.0.1:", ParseDest, "write for example 127.0.0.1:3000"},
		{"[::1]", ParseDest, "has no port: write for example [::1]:3000"},
		{":", ParseBind, "has no port after the colon"},
		{"3000", ParseDest, "is only a port: write 127.0.0.1:3000"},
		{"localhost", ParseDest, "has no port: write for example localhost:3000"},
		{"127.0.0.1:65536", ParseDest, "too large: write one up to 65535"},
		{"127.0.0.1:99999999999999999999", ParseDest, "too large"},
		{"127.0.0.1:-1", ParseDest, "not a port number"},
		{"127.0.0.1:+1", ParseDest, "not a port number"},
		{"127.0.0.1:http", ParseDest, "not a port number"},
		{"127.0.0.1:30:00", ParseDest, "brackets"},
		{"::1:3000", ParseDest, "write IPv6 in brackets"},
		{"::1", ParseDest, "[::1]:PORT"},
		{"[::1:3000", ParseDest, "one bracket without the other"},
		{"::1]:3000", ParseDest, "one bracket without the other"},
		{"[127.0.0.1]:3000", ParseDest, "no IPv6 address between its brackets"},
		{"[]:3000", ParseDest, "no IPv6 address between its brackets"},
		{":3000", ParseDest, "has no host: write 127.0.0.1:3000"},
		{"0.0.0.0:3000", ParseDest, "write 127.0.0.1:3000"},
		{"[::]:3000", ParseDest, "write 127.0.0.1:3000 or [::1]:3000"},
		{"[::ffff:0.0.0.0]:3000", ParseDest, "write 127.0.0.1:3000"},
		{"127.0.0.1:0", ParseDest, "port 0"},
		{":0", ParseDest, "port 0"},
		{"tcp://127.0.0.1:3000", ParseDest, "write 127.0.0.1:3000"},
		{"http://localhost:80/", ParseBind, "no http:// in front: write localhost:80"},
		{"/run/a.sock", ParseBind, "write unix:/run/a.sock"},
		{"127.0.0.1/8:3000", ParseBind, "is not an address"},
		{" 127.0.0.1:3000", ParseDest, "blanks"},
		{"127.0.0.1:3000\n", ParseDest, "blanks or control"},
		{"h\u202e\u009b:1", ParseDest, `"h\u202e\u009b:1" has blanks or control`},
		{"*:4000", ParseBind, "write :4000"},
		{"127.1:3000", ParseDest, "not an IPv4 address"},
		{"300.0.0.1:3000", ParseDest, "not an IPv4 address"},
		{"2130706433:3000", ParseDest, "not an IPv4 address"},
		{"a..b:3000", ParseDest, "not a host name"},
		{"a?b:3000", ParseDest, "not a host name"},
		{strings.Repeat("a", 254) + ":3000", ParseDest, "not a host name"},
		{"unix:", ParseBind, "has no path"},
		{"unix:run/a", ParseBind, "not a whole path"},
		{"unix:/run/", ParseBind, "needs a file name"},
		{"unix:@abc", ParseBind, "abstract sockets are not supported"},
		{"unix:\x00abc", ParseBind, "abstract sockets are not supported"},
		{"unix:/a\x00b", ParseBind, "NUL"},
		{"unix:/" + strings.Repeat("a", maxUnixPath), ParseBind, "at most 107"},
	}
	for _, tt := range tests {
		got, err := tt.parse(tt.in)
		if err == nil {
			t.Errorf("%q is taken as %+v, want an error with %q", tt.in, got, tt.want)
		} else if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %q does not say %q in one line", tt.in, err, tt.want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "30s": 30 * time.Second, "1h30m": 90 * time.Minute, "250ms": 250 * time.Millisecond,
		"1.5m": 90 * time.Second, "+5s": 5 * time.Second, "-0": 0,
	} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"":             "is empty: write for example 30s, or 0",
		"30":           `"30" has no unit: write 30s`,
		"1.5":          `"1.5" has no unit: write 1.5s`,
		"-5s":          `"-5s" is negative: write 5s, or 0`,
		"-5":           "is not a duration",
		"1d":           "the largest unit is h: write 24h",
		"2w":           "the largest unit is h: write 336h",
		" 30s":         `write "30s"`,
		"9999999h":     "too long",
		"9223372037s":  "too long",
		"30 s":         "is not a duration",
		"1e3s":         "is not a duration",
		"inf":          "is not a duration",
		"NaN":          "is not a duration",
		"s":            "is not a duration",
		"thirty":       "is not a duration",
		"1.2.3":        "is not a duration",
		"30sec":        "is not a duration",
		"infd":         "is not a duration",
		"\x00":         "is not a duration",
		"1m30":         "is not a duration",
		"999999999999": "has no unit",
	} {
		if got, err := ParseDuration(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseDuration(%q) = %v, %v; want an error with %q", in, got, err, want)
		}
	}
}

func TestParseSignal(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]syscall.Signal{
		"TERM": syscall.SIGTERM, "SIGTERM": syscall.SIGTERM, "sigint": syscall.SIGINT, "Quit": syscall.SIGQUIT,
		"kill": syscall.SIGKILL, "WINCH": syscall.SIGWINCH, "usr1": syscall.SIGUSR1,
	} {
		if got, err := ParseSignal(in); err != nil || got != want {
			t.Errorf("ParseSignal(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"":       "write one of TERM, INT, QUIT",
		"STOP":   "write one of TERM",
		"SIG":    "write one of TERM",
		"TERM ":  "write one of TERM",
		"15":     "write TERM",
		"9":      "write KILL",
		"0":      "write one of TERM",
		"SIGSIG": "write one of TERM",
	} {
		if got, err := ParseSignal(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseSignal(%q) = %v, %v; want an error with %q", in, got, err, want)
		}
	}
}

func TestCheckEnv(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"A=1", "A=", "A=B=C", "a b=c d", "LANG=de_DE.UTF-8", "TIPROXY_IDLE=1m", "A=line\nline"} {
		if err := CheckEnv(in); err != nil {
			t.Errorf("CheckEnv(%q) = %v, want nil", in, err)
		}
	}
	for in, want := range map[string]string{
		"":                "is empty",
		"A":               `"A" has no value: write A=VALUE, or A= for an empty one`,
		"=1":              "no name before the =",
		"A=\x00":          "NUL",
		"TIPROXY_CHILD=x": "is set by tiproxy itself",
	} {
		if err := CheckEnv(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("CheckEnv(%q) = %v, want an error with %q", in, err, want)
		}
	}
}

func FuzzParseAddr(f *testing.F) {
	for _, s := range []string{"127.0.0.1:3000", "[::1]:80", ":0", "unix:/a", "unix:///a/./b", "tcp://a:1", "[fe80::1%x]:2", "a:007"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseBind(s)
		if err != nil {
			oneLine(t, err)
			return
		}
		again, err := ParseBind(a.String())
		if err != nil || again != a {
			t.Fatalf("%q is read as %+v, which is read back from %q as %+v, %v", s, a, a.String(), again, err)
		}
		if d, err := ParseDest(s); err == nil && (d != a || a.Network == "tcp" && (a.Host == "" || a.Port == 0)) {
			t.Fatalf("%q is taken as dest %+v (bind %+v)", s, d, a)
		}
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"30s", "0", "30", "-1s", "1d", "1e9s", "9999999h", ".5m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err != nil {
			oneLine(t, err)
			return
		}
		again, err := ParseDuration(d.String())
		if d < 0 || err != nil || again != d {
			t.Fatalf("%q is read as %v, which is read back as %v, %v", s, d, again, err)
		}
	})
}

func FuzzParseSignal(f *testing.F) {
	for _, s := range []string{"TERM", "sigterm", "15", "SIGRTMIN+3", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		sig, err := ParseSignal(s)
		if err != nil {
			oneLine(t, err)
		} else if sig <= 0 {
			t.Fatalf("%q is signal %d", s, sig)
		}
	})
}

func FuzzCheckEnv(f *testing.F) {
	for _, s := range []string{"A=1", "=", "A", "TIPROXY_CHILD=1", "A=\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if err := CheckEnv(s); err != nil {
			oneLine(t, err)
		} else if i := strings.IndexByte(s, '='); i < 1 || strings.Contains(s, "\x00") {
			t.Fatalf("%q is accepted", s)
		}
	})
}

func oneLine(t *testing.T, err error) {
	t.Helper()
	if err.Error() == "" || !utf8.ValidString(err.Error()) || strings.ContainsFunc(err.Error(), func(r rune) bool { return !strconv.IsPrint(r) }) {
		t.Fatalf("%q is not one line that can be printed", err)
	}
}
