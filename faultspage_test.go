package main_test

import (
	"fmt"
	"go/ast"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	faultsPage = "docs/faults.md"
	// knownFaults is how many there were to begin with: none of them may get lost.
	knownFaults = 118
)

// outcomes are the ways a row may end, by the word in front of its last column.
var outcomes = map[string]string{
	"":               "held",
	"limit":          "documented limit",
	"does not apply": "does not apply",
}

var (
	rowStart    = regexp.MustCompile(`^\| (\d+) \| `)
	countRow    = regexp.MustCompile(`^\| ([a-z ]+) \| (\d+) \|$`)
	testName    = regexp.MustCompile("`([^`]+)`")
	testForm    = regexp.MustCompile(`^(\.|[a-z/]+): ((?:Test|Fuzz|Benchmark)\w+)$`)
	targetForm  = regexp.MustCompile(`^make ([a-z-]+)$`)
	makeTarget  = regexp.MustCompile(`(?m)^([a-z-]+):`)
	reasonStart = regexp.MustCompile(`^([a-z ]+): (\S.*)$`)
)

// fault is one row of the page.
type fault struct {
	number  int
	outcome string // a value of outcomes
	reason  string // "" for held
	tests   []string
}

// What the page promises can be tried: every test it names exists.
func TestFaultsPage(t *testing.T) {
	page, err := os.ReadFile(faultsPage)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(string(page), "\n<!-- ") // behind it is what make compare prints
	faults := readFaults(t, text)
	checkNumbers(t, faults)
	checkCounts(t, text, faults)
	known := knownTests(t)
	for _, f := range faults {
		for _, name := range f.tests {
			if !known[name] {
				t.Errorf("row %d names %q, which does not exist", f.number, name)
			}
		}
		if f.outcome == "held" && len(f.tests) == 0 {
			t.Errorf("row %d names no test and gives no reason", f.number)
		}
	}
}

// readFaults reads the rows of all tables whose first column is a number.
func readFaults(t *testing.T, text string) []fault {
	t.Helper()
	var faults []fault
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if !rowStart.MatchString(line) {
			continue
		}
		f, err := readFault(line)
		if err != nil {
			t.Errorf("%v in row: %s", err, line)
		}
		faults = append(faults, f)
	}
	return faults
}

func readFault(line string) (fault, error) {
	cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |"), " | ")
	if len(cells) != 4 {
		return fault{}, fmt.Errorf("%d columns instead of 4", len(cells))
	}
	if slices.Contains(cells, "") {
		return fault{}, fmt.Errorf("an empty column")
	}
	number, err := strconv.Atoi(cells[0])
	if err != nil {
		return fault{}, err
	}
	f := fault{number: number, outcome: outcomes[""]}
	last := cells[3]
	if m := reasonStart.FindStringSubmatch(last); m != nil {
		word, known := outcomes[m[1]]
		if !known {
			return f, fmt.Errorf("%q is no outcome", m[1])
		}
		f.outcome, f.reason = word, m[2]
	}
	for _, m := range testName.FindAllStringSubmatch(last, -1) {
		if testForm.MatchString(m[1]) || targetForm.MatchString(m[1]) {
			f.tests = append(f.tests, m[1])
		} else if f.reason == "" {
			return f, fmt.Errorf("%q is neither a test nor a target", m[1])
		}
	}
	if f.reason == "" && strings.Trim(testName.ReplaceAllString(last, ""), ", ") != "" {
		return f, fmt.Errorf("words between the tests")
	}
	return f, nil
}

func checkNumbers(t *testing.T, faults []fault) {
	t.Helper()
	for i, f := range faults {
		if f.number != i+1 {
			t.Fatalf("row %d stands in place %d: every number once, in order", f.number, i+1)
		}
	}
	if len(faults) < knownFaults {
		t.Errorf("%d rows, want %d at least", len(faults), knownFaults)
	}
}

// checkCounts compares the table in the introduction with the rows.
func checkCounts(t *testing.T, text string, faults []fault) {
	t.Helper()
	want, got := map[string]int{}, map[string]int{}
	for _, f := range faults {
		want[f.outcome]++
	}
	for line := range strings.Lines(text) {
		if m := countRow.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			got[m[1]], _ = strconv.Atoi(m[2])
		}
	}
	for _, outcome := range outcomes {
		if got[outcome] != want[outcome] {
			t.Errorf("the introduction counts %d rows as %q, there are %d", got[outcome], outcome, want[outcome])
		}
	}
}

// knownTests are all tests of the module and all targets of the Makefile, as
// the page names them.
func knownTests(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	for _, f := range sources(t) {
		if !f.test {
			continue
		}
		dir := f.dir
		if dir == "" {
			dir = "."
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				known[dir+": "+fn.Name.Name] = true
			}
		}
	}
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range makeTarget.FindAllStringSubmatch(string(makefile), -1) {
		known["make "+m[1]] = true
	}
	return known
}
