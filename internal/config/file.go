package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// File is a checked configuration file: several services and what they share.
type File struct {
	Services []Service // in the order of the file
	Groups   []Group   // likewise

	Admin          Value // where tiproxy can be asked about itself, as it was written
	AdminTokenFile Value // the file with the word for those who ask over TCP; absolute

	LogFormat, LogLevel Value // as they were written; any case, of the known words
}

// Options are what a file needs from outside.
type Options struct {
	// Variable looks up ${NAME}.
	Variable func(name string) (value string, set bool)
	// Port returns a free port for {port} of a service, never one that is taken.
	// As long as the program runs it returns the same one for the same service,
	// unless that is taken now: else every reading would be a change. nil: {port}
	// is an error.
	Port func(service string, taken func(port uint16) bool) (uint16, error)
}

// Bounds of what a file may be. What is beyond them is a mistake, and must not
// take the machine's memory or a day to find out.
const (
	fileMost     = 1 << 20 // bytes
	scalarMost   = 1 << 16 // bytes of one value
	servicesMost = 1000
	groupsMost   = 1000
	amountsMost  = 32      // of one group
	valuesMost   = 100_000 // and keys; what is used again by an alias counts again
	problemsMost = 100     // told at once
	problemsKept = 200     // beyond them problems are only counted
)

// Load reads and checks the file at path. The error joins one *Problem for each
// mistake, in the order of the file, or says why the file cannot be read.
func Load(path string, o Options) (File, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return File{}, unreadable(path, err)
	case info.IsDir():
		return File{}, fmt.Errorf("cannot read the configuration: %s is a directory: name the file in it", path)
	case !info.Mode().IsRegular():
		return File{}, fmt.Errorf("cannot read the configuration: %s is not a regular file: name one", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return File{}, unreadable(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, fileMost+1))
	if err != nil {
		return File{}, unreadable(path, err)
	}
	return Parse(path, data, o)
}

func unreadable(path string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot read the configuration: %s does not exist: name another with --config FILE", path)
	}
	return fmt.Errorf("cannot read the configuration: %w", err)
}

// Parse checks a file's content. name is the file's, for messages; relative paths
// in it are relative to its directory. The error is that of Load.
func Parse(name string, data []byte, o Options) (File, error) {
	p := &parser{name: name, options: o, told: map[string]bool{}, places: new(places)}
	if dir, err := filepath.Abs(filepath.Dir(name)); err == nil {
		p.dir = dir
	}
	var f File
	if root := p.document(data); root != nil {
		p.taken = p.portsIn(string(data))
		f = p.file(root)
	}
	if len(p.problems) > 0 {
		return File{}, errors.Join(p.sorted()...)
	}
	return f, nil
}

// parser reads one file and collects what is wrong with it.
type parser struct {
	name     string
	dir      string // of the file, absolute; "" if that cannot be told
	options  Options
	problems []*Problem
	more     int             // problems that were not kept
	told     map[string]bool // by their text
	places   *places
	taken    map[uint16]bool // ports that the file speaks of
	values   int             // read so far

	budgets      []budget
	groupsBroken bool // nothing is known of them
}

// wrong notes a mistake at a node. what names the thing, "" if the place says it.
func (p *parser) wrong(n *yaml.Node, what, format string, args ...any) {
	if len(p.problems) >= problemsKept {
		p.more++
		return
	}
	v := p.at(n, what)
	p.note(v, fmt.Errorf(format, args...))
}

// note notes a mistake in a value.
func (p *parser) note(v Value, err error) {
	p.keep(&Problem{From: v.From, Err: err, Line: v.line, Column: v.column})
}

// keep keeps a problem, once: a default that is wrong is wrong for every service.
func (p *parser) keep(problem *Problem) {
	switch {
	case p.tooMuch() && len(p.problems) > 0:
		return
	case len(p.problems) >= problemsKept:
		p.more++
		return
	}
	problem.Err = &fileError{problem.Err}
	if text := problem.Error(); !p.told[text] {
		p.told[text] = true
		p.problems = append(p.problems, problem)
	}
}

func (p *parser) sorted() (all []error) {
	slices.SortStableFunc(p.problems, func(a, b *Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	for i, problem := range p.problems {
		if i == problemsMost {
			return append(all, fmt.Errorf("%s: and %d more", p.name, len(p.problems)-i+p.more))
		}
		all = append(all, problem)
	}
	return all
}

// tooMuch is true once so much was read that the rest does not matter.
func (p *parser) tooMuch() bool { return p.values > valuesMost }

// closest is Closest, as long as not so much is wrong that nobody reads it.
func (p *parser) closest(word string, known []string) string {
	if len(p.problems) >= problemsKept {
		return ""
	}
	return Closest(word, known)
}

// at is a value that stands at a node, with no text yet.
func (p *parser) at(n *yaml.Node, what string) Value {
	v := Value{line: max(n.Line, 1), column: max(n.Column, 1)}
	v.From = fmt.Sprintf("%s:%d:%d", p.name, v.line, v.column)
	if what != "" {
		v.From += ": " + what
	}
	return v
}

// document returns the mapping at the top, nil if there is none.
func (p *parser) document(data []byte) *yaml.Node {
	top := &yaml.Node{Line: 1, Column: 1}
	switch bad := firstBad(data); {
	case len(data) > fileMost:
		p.wrong(top, "", "has more than %d bytes, which cannot be right", fileMost)
		return nil
	case bad != nil:
		p.wrong(bad, "", "is not UTF-8: write the file in that encoding")
		return nil
	}
	var docs []*yaml.Node
	for d := yaml.NewDecoder(bytes.NewReader(data)); len(docs) < 2; {
		n := new(yaml.Node)
		err := d.Decode(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			p.syntax(err, data)
			return nil
		}
		docs = append(docs, n)
	}
	switch {
	case len(docs) == 0 || len(docs[0].Content) == 0 || docs[0].Content[0].ShortTag() == "!!null":
		p.wrong(top, "", "is empty: write at least services: {NAME: {dest: ADDR, exec: PROGRAM}}")
		return nil
	case len(docs) > 1:
		p.wrong(docs[1], "", "is a second document: one file is one document, leave out ---")
		return nil
	}
	return docs[0].Content[0]
}

// firstBad is where data stops to be UTF-8, nil if it does not.
func firstBad(data []byte) *yaml.Node {
	if utf8.Valid(data) {
		return nil
	}
	line := 1
	for text := range bytes.Lines(data) {
		if !utf8.Valid(text) {
			good := 0
			for len(text) > 0 {
				r, n := utf8.DecodeRune(text)
				if r == utf8.RuneError && n == 1 {
					break
				}
				good, text = good+1, text[n:]
			}
			return &yaml.Node{Line: line, Column: good + 1}
		}
		line++
	}
	return &yaml.Node{Line: line, Column: 1}
}

// file reads the top of the file.
func (p *parser) file(root *yaml.Node) (f File) {
	known := append([]string{"services", "defaults", "groups"}, names(topKey)...)
	top, ok := p.mapping(root, "", strings.Join(known, ", "))
	if !ok {
		return f
	}
	p.unknown(top, known, "")
	p.program(root, top, &f)
	f.Groups = p.groups(top.get("groups"))
	defaults := p.defaults(top.get("defaults"))
	services := top.get("services")
	if services == nil {
		p.wrong(root, "", "has no services: write services: {NAME: {dest: ADDR, exec: PROGRAM}}")
		return f
	}
	f.Services = p.services(services, defaults, f.Admin)
	return f
}

// AdminOff is written where an address is, by whoever wants nobody to ask.
const AdminOff = "off"

// program reads what is about tiproxy itself.
func (p *parser) program(root *yaml.Node, top entries, f *File) {
	to := map[string]*Value{"admin": &f.Admin, "admin-token-file": &f.AdminTokenFile, "log-format": &f.LogFormat, "log-level": &f.LogLevel}
	for _, s := range within(topKey) {
		v := p.at(root, s.Name)
		if n := top.get(s.Name); n != nil && !isNull(n) {
			v = p.scalar(n, slot{what: s.Name})
		}
		*to[s.Name] = v
		if !v.Given || v.broken {
			continue
		}
		words := s.Words
		if s.Name == "log-level" {
			words = append(words, "warning")
		}
		if s.Kind == Word && !slices.Contains(words, strings.ToLower(v.Text)) {
			_, err := oneOf(s.Words...)(v.Text)
			p.note(v, err)
		}
	}
	p.admin(f)
}

// admin checks where tiproxy can be asked.
func (p *parser) admin(f *File) {
	v := f.Admin
	if token := &f.AdminTokenFile; token.Given && !token.broken {
		if token.Text == "" || hasNUL(token.Text) {
			p.note(*token, errors.New("is empty: write the path of a file"))
		}
		token.Text = p.fromHere(token.Text)
	}
	if !v.Given || v.broken || v.Text == AdminOff {
		return
	}
	a, err := ParseBind(v.Text)
	switch {
	case err != nil:
		p.note(v, err)
	case a.Network == "unix":
		if err := checkDir(filepath.Dir(a.Path)); err != nil {
			p.note(v, err)
		}
	case a.Network == "tcp" && !f.AdminTokenFile.Given:
		p.note(v, fmt.Errorf("%q is open to everybody who can reach it: write unix:/path, or add admin-token-file: PATH", v.Text))
	}
}
