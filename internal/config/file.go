package config

import (
	"errors"
	"fmt"
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
	Admin    Value     // where tiproxy can be asked about itself, as it was written

	LogFormat, LogLevel Value // as they were written
}

// Options are what a file needs from outside.
type Options struct {
	// Variable looks up ${NAME}.
	Variable func(name string) (value string, set bool)
	// Port returns a free port for {port} of a service. It must return the same
	// one for the same service as long as the program runs. nil: {port} is an error.
	Port func(service string) (uint16, error)
}

// fileMost is how large a configuration file may be, in bytes.
const fileMost = 1 << 20

// Load reads and checks the file at path. The error joins one *Problem for each
// mistake, with file, line and column, or says why the file cannot be read.
func Load(path string, o Options) (File, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return File{}, fmt.Errorf("cannot read the configuration: %w", err)
	case info.IsDir():
		return File{}, fmt.Errorf("cannot read the configuration: %s is a directory: name the file in it", path)
	case info.Size() > fileMost:
		return File{}, fmt.Errorf("cannot read the configuration: %s has %d bytes, at most %d can be right", path, info.Size(), fileMost)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return File{}, fmt.Errorf("cannot read the configuration: %w", err)
	}
	return Parse(path, data, o)
}

// Parse checks a file's content. name is the file's, for messages; relative paths
// in it are relative to its directory.
func Parse(name string, data []byte, o Options) (File, error) {
	p := &parser{name: name, options: o}
	root := p.document(data)
	var f File
	if root != nil {
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
	options  Options
	problems []place
}

// place is a problem and where it is, to tell all in the order of the file.
type place struct {
	line, column int
	err          error
}

// wrong notes a mistake at a node. what names the thing, "" if the place says it.
func (p *parser) wrong(n *yaml.Node, what, format string, args ...any) {
	p.note(n.Line, n.Column, &Problem{From: p.from(n, what), Err: fmt.Errorf(format, args...)})
}

// note keeps a problem, once: a default that is wrong is wrong for every service.
func (p *parser) note(line, column int, err error) {
	same := func(o place) bool { return o.err.Error() == err.Error() }
	if !slices.ContainsFunc(p.problems, same) {
		p.problems = append(p.problems, place{line, column, err})
	}
}

func (p *parser) sorted() (all []error) {
	slices.SortStableFunc(p.problems, func(a, b place) int {
		if a.line != b.line {
			return a.line - b.line
		}
		return a.column - b.column
	})
	for _, problem := range p.problems {
		all = append(all, problem.err)
	}
	return all
}

// from is where a node is, and what it is, for people.
func (p *parser) from(n *yaml.Node, what string) string {
	at := fmt.Sprintf("%s:%d:%d", p.name, max(n.Line, 1), max(n.Column, 1))
	if what == "" {
		return at
	}
	return at + ": " + what
}

// document returns the mapping at the top, nil if there is none.
func (p *parser) document(data []byte) *yaml.Node {
	top := &yaml.Node{Line: 1, Column: 1}
	if len(data) > fileMost {
		p.wrong(top, "", "has %d bytes, at most %d can be right", len(data), fileMost)
		return nil
	}
	if !utf8.Valid(data) {
		p.wrong(top, "", "is not UTF-8: write it in that encoding")
		return nil
	}
	var docs []*yaml.Node
	for d := yaml.NewDecoder(strings.NewReader(string(data))); len(docs) < 2; {
		n := new(yaml.Node)
		err := d.Decode(n)
		if err != nil && isEnd(err) {
			break
		}
		if err != nil {
			p.syntax(err)
			return nil
		}
		docs = append(docs, n)
	}
	switch {
	case len(docs) == 0 || len(docs[0].Content) == 0:
		p.wrong(top, "", "is empty: write at least services: {NAME: {dest: …, exec: …}}")
		return nil
	case len(docs) > 1:
		p.wrong(docs[1], "", "is a second document: one file is one document, leave out ---")
		return nil
	}
	return docs[0].Content[0]
}

// file reads the top of the file.
func (p *parser) file(root *yaml.Node) (f File) {
	top, ok := p.mapping(root, "", "services, defaults, groups, admin, log-format, log-level")
	if !ok {
		return f
	}
	p.unknown(top, []string{"services", "defaults", "admin", "log-format", "log-level"}, "")
	for key, to := range map[string]*Value{"admin": &f.Admin, "log-format": &f.LogFormat, "log-level": &f.LogLevel} {
		*to = Value{From: p.from(root, key)}
		if n := top.get(key); n != nil {
			*to = p.scalar(n, key, "")
		}
	}
	defaults := p.defaults(top.get("defaults"))
	services := top.get("services")
	if services == nil {
		p.wrong(root, "", "has no services: write services: {NAME: {dest: …, exec: …}}")
		return f
	}
	f.Services = p.services(services, defaults)
	return f
}

// defaults reads what holds for every service that says nothing else.
func (p *parser) defaults(n *yaml.Node) entries {
	if n == nil {
		return entries{}
	}
	m, ok := p.mapping(n, "defaults", "settings of services")
	if !ok {
		return entries{}
	}
	for _, e := range m.all {
		if s, known := find(e.key.Value); known && s.role == own || slices.Contains([]string{"args"}, e.key.Value) {
			p.wrong(e.key, "defaults."+e.key.Value, "is every service's own: write it there")
		}
	}
	p.unknown(m, p.keys(), "defaults.")
	return m
}

// services reads them all and checks them beside each other.
func (p *parser) services(n *yaml.Node, defaults entries) (all []Service) {
	m, ok := p.mapping(n, "services", "NAME: {dest: …, exec: …} for each service")
	if !ok {
		return nil
	}
	if len(m.all) == 0 {
		p.wrong(n, "services", "is empty: write NAME: {dest: …, exec: …} for each service")
	}
	var texts []Text
	for _, e := range m.all {
		if err := checkName(e.key.Value); err != nil {
			p.wrong(e.key, "services", "%w", err)
		}
		s, text, ok := p.service(e.key, e.value, defaults)
		if ok {
			all, texts = append(all, s), append(texts, text)
		}
	}
	p.clashes(all, texts)
	for i := range all {
		if !texts[i].MaxConnections.Given { // they share the program's descriptors
			all[i].MaxConnections = max(1, all[i].MaxConnections/len(all))
		}
	}
	return all
}

// service reads and checks one.
func (p *parser) service(key, n *yaml.Node, defaults entries) (Service, Text, bool) {
	what := "services." + key.Value
	m, ok := p.mapping(n, what, "dest: …, exec: … and what else is to be set")
	if !ok {
		return Service{}, Text{}, false
	}
	p.unknown(m, p.keys(), what+".")
	before := len(p.problems)
	text := p.text(key.Value, n, m, defaults)
	if len(p.problems) > before {
		return Service{}, Text{}, false
	}
	s, err := Check(text)
	s.Name = key.Value
	for _, one := range unjoin(err) {
		line, column := p.position(one, n)
		p.note(line, column, one)
	}
	return s, text, err == nil
}

// text is a service as the file has it.
func (p *parser) text(name string, n *yaml.Node, m, defaults entries) Text {
	var t Text
	what := "services." + name + "."
	for _, s := range Settings() {
		value, prefix := m.get(s.Name), what
		if value == nil {
			if value = defaults.get(s.Name); value != nil {
				prefix = "defaults."
			}
		}
		switch {
		case s.Name == "env":
			t.Env = p.env(value, prefix+s.Name, name)
		case s.Repeats() && value != nil:
			s.SetAll(&t, p.list(value, prefix+s.Name, name))
		case s.Repeats():
		case value != nil:
			s.Set(&t, p.scalar(value, prefix+s.Name, name))
		default:
			s.Set(&t, Value{From: p.from(n, what+s.Name)})
		}
	}
	for _, v := range p.list(m.get("args"), what+"args", name) {
		t.Args = append(t.Args, v.Text)
	}
	p.fromHere(&t)
	return t
}

// fromHere makes relative paths those of the file's directory, not of whoever
// starts tiproxy.
func (p *parser) fromHere(t *Text) {
	dir, err := filepath.Abs(filepath.Dir(p.name))
	if err != nil {
		return // as relative as they were
	}
	for _, v := range []*Value{&t.Workdir, &t.Exec} {
		path := v.Text
		if !v.Given || path == "" || filepath.IsAbs(path) || v == &t.Exec && !strings.Contains(path, "/") {
			continue
		}
		v.Text = filepath.Join(dir, path)
	}
}

// clashes finds services that would be in each other's way.
func (p *parser) clashes(all []Service, texts []Text) {
	for i, s := range all {
		for j, other := range all[:i] {
			if SamePlace(other.Bind, s.Bind) || SamePlace(s.Bind, other.Bind) { // port 0 is no place
				p.clash(texts[i].Bind, "%s is where service %s takes its clients (%s): give one of them another address", s.Bind, other.Name, texts[j].Bind.From)
			}
			if s.Dest.Network != "" && other.Dest.Network != "" && (SamePlace(s.Dest, other.Dest) || SamePlace(other.Dest, s.Dest)) {
				p.clash(texts[i].Dest, "%s is where the child of service %s listens (%s): give one of them another address", s.Dest, other.Name, texts[j].Dest.From)
			}
			p.crossing(s, other, texts[i].Dest)
			p.crossing(other, s, texts[j].Dest)
		}
	}
}

// crossing refuses a child that would have to listen where another service does.
func (p *parser) crossing(s, other Service, dest Value) {
	if s.Dest.Network != "" && SamePlace(other.Bind, s.Dest) {
		p.clash(dest, "%s is where service %s takes its clients: give the child another address", s.Dest, other.Name)
	}
}

func (p *parser) clash(v Value, format string, args ...any) {
	err := &Problem{From: v.From, Err: fmt.Errorf(format, args...)}
	line, column := p.position(err, &yaml.Node{Line: 1, Column: 1})
	p.note(line, column, err)
}

// position reads the line and column that a problem begins with.
func (p *parser) position(err error, n *yaml.Node) (line, column int) {
	var problem *Problem
	if errors.As(err, &problem) {
		rest, _ := strings.CutPrefix(problem.From, p.name+":")
		if c, _ := fmt.Sscanf(rest, "%d:%d", &line, &column); c == 2 {
			return line, column
		}
	}
	return n.Line, n.Column
}

// unjoin is what errors.Join has joined.
func unjoin(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// checkName checks the name of a service.
func checkName(name string) error {
	const most = 63
	right := "begin with a letter and go on with letters, digits, - and _"
	if name == "" || len(name) > most {
		return fmt.Errorf("%q is no name: %s, at most %d", name, right, most)
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || (r < '0' || r > '9') && r != '-' && r != '_') {
			return fmt.Errorf("%q is no name: %s", name, right)
		}
	}
	return nil
}
