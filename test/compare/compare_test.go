//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "role" || os.Args[1] == "inside") {
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// compare runs some cells as a person would, and returns the page as written.
func compare(t *testing.T, words ...string) (page string, status int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root, for namespaces of its own: run the tests as root, for example in a container")
	}
	out := filepath.Join(t.TempDir(), "page.md")
	status = run(append([]string{"--out", out}, words...))
	data, err := os.ReadFile(out)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(data), status
}

// The harness tells right from wrong, and what does not apply from both.
func TestCompare_TellsThemApart(t *testing.T) {
	page, status := compare(t, "--peers", "tiproxy,socat", "--rows", "27,42")
	if status != statusFine {
		t.Errorf("exit status %d, want %d", status, statusFine)
	}
	for _, row := range []string{
		"| ✓ client sees reset | ✗ client sees clean end |",
		"| ✓ server sees reset | ✗ server sees clean end |",
		"| ✓ all gone after ",
		" | – |\n",
	} {
		if !strings.Contains(page, row) {
			t.Errorf("the page does not hold %q:\n%s", row, page)
		}
	}
}

// disguise is socat with the command line of tiproxy.
const disguise = `#!/bin/sh
case $1 in
--version) echo tiproxy in-disguise; exit ;;
--help) exit ;;
esac
bind=$2 dest=$4
while [ "$1" != --exec ]; do shift; done
program=$2
shift 3
"$program" "$@" &
exec socat "TCP-LISTEN:${bind#*:},fork,reuseaddr" "TCP:$dest,retry=100,interval=0.1"
`

func TestCompare_FailsWhenTiproxyBreaksAPromise(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disguise")
	if err := os.WriteFile(path, []byte(disguise), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BIN_UNDER_TEST", path)
	page, status := compare(t, "--peers", "tiproxy", "--rows", "27")
	if status != statusBroken {
		t.Errorf("exit status %d, want %d", status, statusBroken)
	}
	if !strings.Contains(page, "| ✗ client sees clean end |") {
		t.Errorf("the page does not show what was seen:\n%s", page)
	}
}

func TestCompare_WritesNothingWhenItCannotWork(t *testing.T) {
	t.Setenv("BIN_UNDER_TEST", "/bin/true")
	if page, status := compare(t, "--peers", "tiproxy", "--rows", "27"); status != statusUnable || page != "" {
		t.Errorf("exit status %d and %d bytes, want %d and none", status, len(page), statusUnable)
	}
	for _, words := range [][]string{{"--peers", "nobody"}, {"--rows", "1000"}, {"--rows", "x"}, {"word"}} {
		if page, status := compare(t, words...); status != statusUnable || page != "" {
			t.Errorf("%v: exit status %d and %d bytes, want %d and none", words, status, len(page), statusUnable)
		}
	}
}

// The page that is kept in docs shows the rows there are.
func TestCompare_PageInDocsIsOfThisTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/compare.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{introduction, notes} {
		if !strings.Contains(string(page), want) {
			t.Error("docs/compare.md has another text around the table: run make compare")
		}
	}
	for _, f := range faults {
		if !strings.Contains(string(page), f.heading()) {
			t.Errorf("docs/compare.md has no row %q: run make compare", f.heading())
		}
	}
}

func TestKeepaliveTimer(t *testing.T) {
	for line, want := range map[string]string{
		"0 0 127.0.0.1:1 127.0.0.1:2 timer:(keepalive,14sec,0)":     "15 s",
		"0 0 127.0.0.1:1 127.0.0.1:2 timer:(keepalive,119min,0)":    "2 h",
		"0 0 127.0.0.1:1 127.0.0.1:2 timer:(keepalive,1min54sec,0)": "115 s",
		"0 0 127.0.0.1:1 127.0.0.1:2 timer:(on,200ms,0)":            "",
		"0 0 127.0.0.1:1 127.0.0.1:2":                               "",
	} {
		if got := keepaliveTimer(line); got != want {
			t.Errorf("keepaliveTimer(%q) = %q, want %q", line, got, want)
		}
	}
}

func TestNumbersAsTheyArePrinted(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{size(0), "nothing"},
		{size(999), "999 B"},
		{size(126_000), "126 kB"},
		{size(4_000_000), "4 MB"},
		{short(358 * time.Microsecond), "358 µs"},
		{short(2 * time.Millisecond), "2 ms"},
		{short(1950 * time.Millisecond), "1.9 s"},
		{short(15 * time.Second), "15 s"},
		{short(2 * time.Hour), "2 h"},
		{count("line", 1), "1 line"},
		{count("line", 0), "0 lines"},
		{count("process", 2), "2 processes"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}
