package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"
)

// defaults reads what holds for every service that says nothing else.
func (p *parser) defaults(n *yaml.Node) entries {
	if n == nil {
		return entries{}
	}
	m, ok := p.mapping(n, "defaults", "settings of services, or leave it out")
	if !ok {
		return entries{}
	}
	known := names(defaultsKey)
	for _, e := range m.all {
		if _, has := find(serviceKey, e.key.Value); has {
			if _, has = find(defaultsKey, e.key.Value); !has {
				p.wrong(e.key, "defaults."+e.key.Value, "is every service's own: write it there")
				known = append(known, e.key.Value)
			}
		}
	}
	p.unknown(m, known, "defaults.")
	return m
}

// draft is a service before it is known whether all is right with it.
type draft struct {
	Service
	text Text
}

// services reads them all and checks them beside each other.
func (p *parser) services(n *yaml.Node, defaults entries, admin Value) (all []Service) {
	m, ok := p.mapping(n, "services", "NAME: {dest: ADDR, exec: PROGRAM} for each service")
	switch {
	case !ok:
		return nil
	case len(m.all) == 0:
		p.wrong(n, "services", "is empty: write NAME: {dest: ADDR, exec: PROGRAM} for each service")
	case len(m.all) > servicesMost:
		p.wrong(n, "services", "has %d services: write at most %d", len(m.all), servicesMost)
		return nil
	}
	var drafts []*draft
	for _, e := range m.all {
		if err := checkName(e.key.Value); err != nil {
			p.wrong(e.key, "services", "%w", err)
		}
		if d, ok := p.service(e.key, e.value, defaults); ok {
			drafts = append(drafts, d)
		}
		if p.tooMuch() {
			return nil
		}
	}
	p.unused(defaults, m)
	p.clashes(drafts, admin)
	p.relations(drafts)
	for _, d := range drafts {
		if !d.text.MaxConnections.Given { // they share the program's descriptors
			d.MaxConnections, d.Share = max(1, d.MaxConnections/len(drafts)), true
		}
		all = append(all, d.Service)
	}
	return all
}

// service reads and checks one. ok is false if there is nothing to read.
func (p *parser) service(key, n *yaml.Node, defaults entries) (d *draft, ok bool) {
	what := "services." + excerpt(key.Value)
	m, ok := p.mapping(n, what, "dest: ADDR, exec: PROGRAM and what else is to be set")
	if !ok {
		return nil, false
	}
	p.unknown(m, names(serviceKey), what+".")
	text := p.text(key.Value, n, m, defaults)
	s, problems := check(text, key.Value, p.places)
	for _, err := range problems {
		p.keep(asProblem(err))
	}
	return &draft{s, text}, true
}

func asProblem(err error) *Problem {
	if problem, ok := errors.AsType[*Problem](err); ok {
		return problem
	}
	return &Problem{Err: err}
}

// unused checks the defaults that no service takes, each by itself: what nobody
// sees today is wrong all the same.
func (p *parser) unused(defaults, services entries) {
	for _, e := range defaults.all {
		s, known := find(defaultsKey, e.key.Value)
		taken := func(service entry) bool {
			m := resolve(service.value)
			return m.Kind == yaml.MappingNode && p.quietly(m).get(s.Name) == nil
		}
		if !known || anyOf(services.all, taken) {
			continue
		}
		var t Text
		p.take(&t, s, e.value, slot{what: "defaults." + s.Name, service: "defaults", shared: true})
		_, problems := check(t, "defaults", p.places)
		for _, err := range problems {
			if problem := asProblem(err); problem.shared {
				p.keep(problem)
			}
		}
	}
}

func anyOf(all []entry, is func(entry) bool) bool {
	for _, e := range all {
		if is(e) {
			return true
		}
	}
	return false
}

// text is a service as the file has it.
func (p *parser) text(name string, n *yaml.Node, m, defaults entries) (t Text) {
	what := "services." + excerpt(name) + "."
	for _, s := range within(serviceKey) {
		at := slot{what: what + s.Name, service: name}
		value := m.get(s.Name)
		switch {
		case value != nil && isNull(value): // as if neither said it
			value = nil
		case value == nil && s.scope&defaultsKey != 0:
			value = defaults.get(s.Name)
			at.what, at.shared = "defaults."+s.Name, true
			if value != nil && isNull(value) {
				value = nil
			}
		}
		switch {
		case value != nil:
			p.take(&t, s, value, at)
		case !s.Repeats():
			s.Set(&t, p.at(n, what+s.Name))
		}
	}
	p.portOf(t)
	for _, v := range t.FileArgs {
		t.Args = append(t.Args, v.Text)
	}
	return t
}

// take reads one setting of a service.
func (p *parser) take(t *Text, s Setting, n *yaml.Node, at slot) {
	at.port = portGoes[s.Name]
	switch {
	case s.Kind == Pairs:
		s.SetAll(t, p.pairs(n, at))
	case s.Repeats():
		s.SetAll(t, p.list(n, at))
	default:
		v := p.scalar(n, at)
		v.Text = p.pathFromHere(s.Name, v.Text)
		s.Set(t, v)
	}
}

// pathFromHere makes relative paths those of the file's directory, not of whoever
// starts tiproxy.
func (p *parser) pathFromHere(setting, text string) string {
	switch setting {
	case "workdir":
		return p.fromHere(text)
	case "exec":
		if strings.Contains(text, "/") {
			return p.fromHere(text)
		}
	case "logs":
		if path, isFile := strings.CutPrefix(text, LogsFile); isFile && path != "" {
			return LogsFile + p.fromHere(path)
		}
	}
	return text
}

// fromHere makes a path absolute. A slash at its end stays.
func (p *parser) fromHere(path string) string {
	if path == "" || filepath.IsAbs(path) || p.dir == "" {
		return path
	}
	whole := filepath.Join(p.dir, path)
	if strings.HasSuffix(path, "/") && !strings.HasSuffix(whole, "/") {
		whole += "/"
	}
	return whole
}

// checkName checks the name of a service or of a group.
func checkName(name string) error {
	const most = 63
	right := "begin with a letter and go on with letters, digits, - and _"
	if name == "" || len(name) > most {
		return fmt.Errorf("%q is no name: %s, at most %d", excerpt(name), right, most)
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || (r < '0' || r > '9') && r != '-' && r != '_') {
			return fmt.Errorf("%q is no name: %s", name, right)
		}
	}
	return nil
}
