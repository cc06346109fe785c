package main_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The rules of the house, read from the source of every system's files, so
// that what builds only elsewhere keeps them too. Each says why it is there.

const module = "tiproxy"

// arrows says which packages of ours a package may import. Imports point
// inwards: a room that knows fewer others can be read, tested and replaced alone.
var arrows = map[string][]string{
	"":                       {"internal/admin", "internal/budget", "internal/config", "internal/dashboard", "internal/direct", "internal/metrics", "internal/output", "internal/pool", "internal/probe", "internal/process", "internal/proxy", "internal/stdio"},
	"internal/admin":         {},
	"internal/budget":        {"internal/pool"},
	"internal/config":        {},
	"internal/dashboard":     {},
	"internal/direct":        {},
	"internal/metrics":       {},
	"internal/output":        {},
	"internal/pool":          {},
	"internal/pool/pooltest": {"internal/pool"},
	"internal/probe":         {},
	"internal/process":       {"internal/pool", "internal/probe"},
	"internal/proxy":         {"internal/pool"},
	"internal/stdio":         {},
	"bench":                  {},
	"test":                   {},
	"test/compare":           {},
	"test/docker":            {},
	"test/soak":              {},
}

var arrowReasons = map[string]string{
	"internal/admin":         "whoever asks about the proxy must not be able to change it: it is handed what it may say",
	"internal/budget":        "room is shared out among pools: what they run, and who their clients are, is not known here",
	"internal/config":        "settings are checked values: they describe, they start and open nothing",
	"internal/dashboard":     "the page sees what everybody sees who asks the API: it needs no way around it",
	"internal/direct":        "the kernel is told where to lead clients; who the child is and when it is stopped is decided elsewhere",
	"internal/metrics":       "numbers are shown as they are handed over: who counts them is not known here",
	"internal/output":        "a child's output is taken by whoever has room for it: what it is for is decided elsewhere",
	"internal/pool":          "the heart knows nobody: any kind of resource can be behind it",
	"internal/pool/pooltest": "the fake and the conformance suite serve every kind, so they know none",
	"internal/probe":         "whether something is ready is a question to the kernel, not to our other rooms",
	"internal/process":       "a kind of resource knows the pool's interfaces and the probe, never another kind or the proxy",
	"internal/proxy":         "the proxy carries bytes for leases of the pool; it knows nothing of processes",
	"internal/stdio":         "output goes through it on every path, so it may depend on none",
	"bench":                  "the benchmark measures a program beside others, whatever it is built from",
	"test":                   "the tests of the whole see the binary from outside, as its users do",
	"test/compare":           "the comparison sees of tiproxy what it sees of its peers: a program",
	"test/docker":            "the tests of the container see what a user of docker sees",
	"test/soak":              "the soak counts what clients lose, whatever build of the binary is between",
}

// owners says who alone may import a module from outside.
var owners = []struct {
	path   string
	rooms  []string
	reason string
}{
	{"github.com/spf13/cobra", []string{""}, "the command line ends in main; behind it there are only checked settings"},
	{"github.com/spf13/pflag", []string{""}, "the command line ends in main; behind it there are only checked settings"},
	{"github.com/lmittmann/tint", []string{""}, "main chooses how the log looks; rooms get a *slog.Logger"},
	{"golang.org/x/term", []string{""}, "main decides what a terminal changes; rooms behave the same with and without one"},
	{"github.com/cilium/ebpf", []string{"internal/direct"}, "a program in the kernel is the direct path's own business; everybody else works without it"},
	{"go.yaml.in/yaml/v4", []string{"internal/config", "internal/admin"}, "what a file looks like is known where it is read (the admin room's test reads docs/openapi.yaml); behind that there are only checked settings"},
	{"github.com/prometheus/client_golang", []string{"internal/metrics"}, "how numbers are written for Prometheus is one room's business; the others count"},
	{"github.com/pires/go-proxyproto", []string{"internal/proxy"}, "a PROXY header is the first thing on a connection: only who reads and writes connections knows its format"},
}

// testOnly are modules that help tests and must not end up in the binary.
var testOnly = []string{"testing", "github.com/chromedp", "github.com/google/go-cmp", "github.com/santhosh-tekuri/jsonschema", "go.uber.org/goleak", "pgregory.net/rapid"}

type sourceFile struct {
	path  string // slash-separated, from the root
	dir   string // "" for the root
	test  bool
	lines int
	fset  *token.FileSet
	ast   *ast.File
}

func (f sourceFile) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.path, f.fset.Position(n.Pos()).Line)
}

func TestHouse_ArrowsPointInwards(t *testing.T) {
	for _, f := range sources(t) {
		allowed, known := arrows[f.dir]
		if !known {
			t.Errorf("%s: package %q has no place in the house: add it to arrows in house_test.go, with what it may import and why", f.path, f.dir)
			continue
		}
		for _, imp := range f.ast.Imports {
			checkArrow(t, f, imp, allowed)
		}
	}
}

func checkArrow(t *testing.T, f sourceFile, imp *ast.ImportSpec, allowed []string) {
	t.Helper()
	path := importPath(imp)
	if path == module {
		t.Errorf("%s imports main: nothing does; main wires the others and is known to none of them", f.at(imp))
		return
	}
	room, ours := strings.CutPrefix(path, module+"/")
	if !ours || room == f.dir || slices.Contains(allowed, room) {
		return
	}
	if f.test && room == "internal/pool/pooltest" {
		return // every kind of resource runs the conformance suite
	}
	t.Errorf("%s: %s imports %s, but %s", f.at(imp), f.dir, room, arrowReasons[f.dir])
}

func TestHouse_OutsidersStayWhereTheyBelong(t *testing.T) {
	for _, f := range sources(t) {
		for _, imp := range f.ast.Imports {
			checkOutsider(t, f, imp)
		}
	}
}

func checkOutsider(t *testing.T, f sourceFile, imp *ast.ImportSpec) {
	t.Helper()
	path := importPath(imp)
	for _, o := range owners {
		if within(path, o.path) && !slices.Contains(o.rooms, f.dir) {
			t.Errorf("%s imports %s: %s", f.at(imp), path, o.reason)
		}
	}
	helper := f.test || f.dir == "internal/pool/pooltest"
	for _, p := range testOnly {
		if within(path, p) && !helper {
			t.Errorf("%s imports %s: it is for tests and would end up in the binary", f.at(imp), path)
		}
	}
	if f.dir == "internal/pool" && !f.test && strings.Contains(path, ".") {
		t.Errorf("%s imports %s: the pool uses the standard library only; it is the part that must be read to trust the rest", f.at(imp), path)
	}
}

func TestHouse_PackagesAreNamedForWhatTheyDo(t *testing.T) {
	for _, f := range sources(t) {
		switch strings.TrimSuffix(f.ast.Name.Name, "_test") {
		case "util", "utils", "common", "types", "helpers", "misc":
			t.Errorf("%s: package %s says nothing about what belongs in it, so everything ends up there", f.path, f.ast.Name.Name)
		}
	}
}

func TestHouse_EveryPackageSaysWhatIsAlwaysTrue(t *testing.T) {
	docs := map[string][]string{}
	for _, f := range sources(t) {
		if strings.HasSuffix(f.ast.Name.Name, "_test") {
			continue
		}
		if _, seen := docs[f.dir]; !seen {
			docs[f.dir] = nil
		}
		if f.ast.Doc != nil && strings.TrimSpace(f.ast.Doc.Text()) != "" {
			docs[f.dir] = append(docs[f.dir], f.path)
		}
	}
	for dir, files := range docs {
		switch len(files) {
		case 1:
		case 0:
			t.Errorf("package in %q has no package comment: its first sentence tells a reader what is always true there", dir)
		default:
			t.Errorf("package in %q has %d package comments (%s): godoc glues them together, and two openings drift apart", dir, len(files), strings.Join(files, ", "))
		}
	}
}

func TestHouse_FilesAndFunctionsFitAScreenOrTwo(t *testing.T) {
	const fileMax, funcMax = 500, 70
	for _, f := range sources(t) {
		if f.lines > fileMax {
			t.Errorf("%s has %d lines, more than %d: a file holds one idea, and a longer one holds several", f.path, f.lines, fileMax)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := f.span(fn)
			if f.test {
				n -= tableLines(f, fn) // a table of cases is data: the longer the better
			}
			if n > funcMax {
				t.Errorf("%s: %s has %d lines, more than %d: it does several things that deserve names", f.at(fn), fn.Name.Name, n, funcMax)
			}
		}
	}
}

// span is the number of lines that n covers.
func (f sourceFile) span(n ast.Node) int {
	return f.fset.Position(n.End()).Line - f.fset.Position(n.Pos()).Line + 1
}

// tableLines is the number of lines that slice and map literals cover.
func tableLines(f sourceFile, fn *ast.FuncDecl) int {
	lines := 0
	ast.Inspect(fn, func(n ast.Node) bool {
		table, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		switch table.Type.(type) {
		case *ast.ArrayType, *ast.MapType:
			lines += f.span(table) - 1
			return false // tables within tables are counted already
		}
		return true
	})
	return lines
}

func TestHouse_GoroutinesHaveNames(t *testing.T) {
	for _, f := range sources(t) {
		if f.test {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok && isLiteral(g.Call.Fun) {
				t.Errorf("%s: `go func` starts a nameless goroutine: name the function, so that a dump says what it is and its comment what ends it", f.at(g))
			}
			return true
		})
	}
}

func TestHouse_NobodySleeps(t *testing.T) {
	for _, f := range sources(t) {
		if !f.test || imports(f, "testing/synctest") || !mentions(f.ast, "testing", "T", "TB", "B", "F") {
			// In a synctest bubble a sleep costs nothing, and what the test
			// binary does as somebody's child may take its time.
			continue
		}
		var bounded []ast.Node // loops that ask the clock whether to go on
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if loop, ok := n.(*ast.ForStmt); ok && mentions(loop, "time", "Now", "Since", "Until") {
				bounded = append(bounded, loop)
			}
			return true
		})
		ast.Inspect(f.ast, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if ok && s.Sel.Name == "Sleep" && isIdent(s.X, "time") && !slices.ContainsFunc(bounded, func(l ast.Node) bool { return l.Pos() <= s.Pos() && s.End() <= l.End() }) {
				t.Errorf("%s: a time.Sleep outside a bounded poll waits too long on a quick machine and too short on a busy one: wait for the event", f.at(s))
			}
			return true
		})
	}
}

func TestHouse_NoWallClockArithmetic(t *testing.T) {
	for _, f := range sources(t) {
		if f.test {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) > 0 {
				return true
			}
			s, ok := call.Fun.(*ast.SelectorExpr)
			if ok && slices.Contains([]string{"Unix", "UnixMilli", "UnixMicro", "UnixNano", "UTC", "Local"}, s.Sel.Name) {
				t.Errorf("%s: %s drops the monotonic clock's reading, and the wall clock jumps: keep the time.Time, and use Sub and Since", f.at(call), s.Sel.Name)
			}
			return true
		})
	}
}

// mentions says whether one of the names of package pkg is used in n.
func mentions(n ast.Node, pkg string, names ...string) bool {
	found := false
	ast.Inspect(n, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && isIdent(s.X, pkg) && slices.Contains(names, s.Sel.Name) {
			found = true
		}
		return !found
	})
	return found
}

func TestHouse_InterfacesAreSmall(t *testing.T) {
	const most = 4
	for _, f := range sources(t) {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			it, ok := n.(*ast.InterfaceType)
			if ok && it.Methods.NumFields() > most {
				t.Errorf("%s: an interface of %d methods, more than %d: nobody can fake or fulfil it easily, and half the calls are wrong in half the states", f.at(it), it.Methods.NumFields(), most)
			}
			return true
		})
	}
}

// sources parses every Go file of the module, for whatever system it is.
func sources(t *testing.T) []sourceFile {
	t.Helper()
	var files []sourceFile
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if hidden := path != "." && strings.HasPrefix(d.Name(), "."); hidden || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) == ".go" {
			files = append(files, parse(t, filepath.ToSlash(path)))
		}
		return nil
	})
	if err != nil {
		t.Fatalf("walk the module: %v", err)
	}
	if len(files) < 10 {
		t.Fatalf("found only %d Go files: the test does not run in the module's root", len(files))
	}
	return files
}

func parse(t *testing.T, path string) sourceFile {
	t.Helper()
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	dir := filepath.ToSlash(filepath.Dir(path))
	if dir == "." {
		dir = ""
	}
	return sourceFile{
		path:  path,
		dir:   dir,
		test:  strings.HasSuffix(path, "_test.go"),
		lines: fset.File(tree.Pos()).LineCount(),
		fset:  fset,
		ast:   tree,
	}
}

func importPath(imp *ast.ImportSpec) string {
	path, err := strconv.Unquote(imp.Path.Value)
	if err != nil {
		return imp.Path.Value
	}
	return path
}

func imports(f sourceFile, path string) bool {
	return slices.ContainsFunc(f.ast.Imports, func(imp *ast.ImportSpec) bool { return importPath(imp) == path })
}

// within says whether path is pkg or a package below it.
func within(path, pkg string) bool {
	return path == pkg || strings.HasPrefix(path, pkg+"/")
}

func isLiteral(e ast.Expr) bool {
	_, ok := e.(*ast.FuncLit)
	return ok
}

func isIdent(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}
