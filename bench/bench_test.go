//go:build linux

package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "role" {
		os.Exit(play(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// underTest returns the tiproxy that is asked for, or one built from the source.
func underTest(t *testing.T) string {
	t.Helper()
	if given := os.Getenv("BIN_UNDER_TEST"); given != "" {
		return given
	}
	path := filepath.Join(t.TempDir(), "tiproxy")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, ".")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build tiproxy: %v\n%s", err, out)
	}
	return path
}

// The whole program, in small: it must go on measuring something everywhere.
// How much that is, is nobody's business here.
func TestBench_MeasuresAndWritesItDown(t *testing.T) {
	docs := t.TempDir()
	page := filepath.Join(docs, pageName)
	if err := os.WriteFile(page, []byte("above\n"+fromHere+"old\n"+toHere+"below\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if status := run([]string{
		"--tiproxy", underTest(t), "--docs", docs, "--peers", "nobody", "--rounds", "1", "--time", "50ms", "--idle", "20", "--starts", "2",
	}, &out); status != statusFine {
		t.Fatalf("exit status %d, want %d", status, statusFine)
	}
	text := read(t, page)
	if want := "above\n" + fromHere + out.String() + toHere + "below\n"; text != want {
		t.Errorf("the page is not what was printed, between what was there:\n%s", text)
	}
	checkJSON(t, read(t, filepath.Join(docs, jsonName)))
	checkPicture(t, read(t, filepath.Join(docs, pictureName)))
	if left := "Left out: HAProxy: not asked for."; !strings.Contains(text, left) {
		t.Errorf("the page does not say %q:\n%s", left, text)
	}
}

func checkJSON(t *testing.T, text string) {
	t.Helper()
	var r results
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("JSON: %v", err)
	}
	all := append([]measure{redisP99, httpP99, roundTripP50}, speeds...)
	for _, who := range []string{noProxy, ours + " copy"} {
		for _, m := range all {
			if s, ok := r.spread(who, m); !ok || s.median <= 0 {
				t.Errorf("%s: %s is %v, want more than 0", who, m.key, r.Values[who][m.key])
			}
		}
	}
	for _, who := range r.ours() {
		if len(r.Cold[who]) != len(childDelays) || r.Asleep[who].Resident == 0 {
			t.Errorf("%s: cold starts %v and asleep %v, want %d kinds and a resident set", who, r.Cold[who], r.Asleep[who], len(childDelays))
		}
		for _, m := range []measure{requestsCPU, bulkCPU} {
			// Nothing at all is what a path costs on which tiproxy steps aside.
			if s, ok := r.spread(who, m); !ok || s.median < 0 || s.median == 0 && who == ours+" copy" {
				t.Errorf("%s: %s is %v, want something", who, m.key, r.Values[who][m.key])
			}
		}
	}
	if fds, _ := r.spread(ours+" copy", idleDescriptors); fds.median < 1 {
		t.Errorf("an idle connection has %v descriptors, want some", fds.median)
	}
}

func checkPicture(t *testing.T, text string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the picture is not XML: %v", err)
		}
	}
	if !strings.Contains(text, ours+" copy") {
		t.Error("the picture does not show tiproxy")
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestBench_SaysWhatIsWrongBeforeItMeasures(t *testing.T) {
	for name, tt := range map[string]struct {
		words []string
		want  int
	}{
		"unknown flag":    {[]string{"--nonsense"}, statusUsage},
		"leftover word":   {[]string{"word"}, statusUsage},
		"no round":        {[]string{"--rounds", "0"}, statusUsage},
		"no tiproxy":      {[]string{"--tiproxy", "/bin/true"}, statusUnable},
		"no page to fill": {[]string{"--docs", t.TempDir()}, statusUnable},
	} {
		if got := run(tt.words, io.Discard); got != tt.want {
			t.Errorf("%s: exit status %d, want %d", name, got, tt.want)
		}
	}
}

func TestSpreadAndRatio(t *testing.T) {
	r := &results{Values: map[string]map[string][]float64{
		"a": {"x": {1, 8, 3}},
		"b": {"x": {2, 4, 3, 100}},
	}}
	m := measure{key: "x"}
	got, _ := r.ratio("a", "b", m)
	if want := (spread{0.5, 1, 2}); got != want {
		t.Errorf("ratio %v, want %v: only values of the same round are compared", got, want)
	}
	if got, _ := of([]float64{4, 1, 3, 2}); got != (spread{1, 2.5, 4}) {
		t.Errorf("spread %v, want 1, 2.5, 4", got)
	}
	if _, ok := of(nil); ok {
		t.Error("nothing has a spread")
	}
	if got := (spread{1000, 2000, 3500}).show(1000, 1); got != "2.0 (1.0–3.5)" {
		t.Errorf("shown as %q", got)
	}
}

func TestTargets_AreMissedAndMet(t *testing.T) {
	who := ours + " copy"
	r := &results{
		Subjects: []string{noProxy, who, theHAProxy},
		Values: map[string]map[string][]float64{
			who:        {redisRequests.key: {89}, oneStream.key: {2}, idleDescriptors.key: {2.01}, idleBytes.key: {11}},
			theHAProxy: {redisRequests.key: {100}, oneStream.key: {2}},
		},
		Cold:   map[string][]coldStarts{who: {{Median: time.Millisecond, P99: 11 * time.Millisecond}}},
		Asleep: map[string]asleep{who: {Span: 30 * time.Second, Switches: 2, Resident: 1}},
	}
	met := map[string]bool{}
	for _, target := range r.targets() {
		met[target.what] = target.met
	}
	for what, want := range map[string]bool{
		who + ": " + redisRequests.plain():                    false,
		who + ": " + oneStream.plain():                        true,
		who + ": descriptors of an idle connection":           true,
		who + ": memory of an idle connection, KiB":           false,
		who + ": cold start, a child that listens after 0 ms": false,
		who + ": context switches asleep, a minute":           false,
		who + ": resident asleep, MiB":                        true,
	} {
		if got, known := met[what]; !known || got != want {
			t.Errorf("%s: met %v (known %v), want %v", what, got, known, want)
		}
	}
}
