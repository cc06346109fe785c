package config

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// entries are a mapping of the file.
type entries struct{ all []entry }

type entry struct{ key, value *yaml.Node }

// get returns what stands behind a key, nil if nothing does.
func (m entries) get(key string) *yaml.Node {
	for _, e := range m.all {
		if e.key.Value == key {
			return e.value
		}
	}
	return nil
}

// depth is how many aliases may lead to one another.
const depth = 8

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	for range depth {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	return n
}

// mapping reads KEY: VALUE pairs. right says what belongs there.
func (p *parser) mapping(n *yaml.Node, what, right string) (m entries, ok bool) {
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		p.wrong(n, what, "is %s: write %s", kindOf(n), right)
		return m, false
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case key.Kind != yaml.ScalarNode:
			p.wrong(key, what, "has a key that is %s: write a word", kindOf(key))
		case m.get(key.Value) != nil:
			p.wrong(key, join(what, key.Value), "is there twice: leave one of them out")
		default:
			m.all = append(m.all, entry{key, n.Content[i+1]})
		}
	}
	return m, true
}

func join(what, key string) string {
	if what == "" {
		return key
	}
	return what + "." + key
}

// kindOf says what a node is, in words of people.
func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a set of KEY: VALUE pairs"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias of an alias"
	case n.ShortTag() == "!!null":
		return "empty"
	}
	return strconv.Quote(n.Value)
}

// unknown tells of keys that nobody knows.
func (p *parser) unknown(m entries, known []string, prefix string) {
	for _, e := range m.all {
		if slices.Contains(known, e.key.Value) {
			continue
		}
		if e.key.Value == "<<" {
			p.wrong(e.key, prefix+"<<", "is not supported: what services share goes into defaults")
			continue
		}
		hint := "the keys are " + strings.Join(known, ", ")
		if near := Closest(e.key.Value, known); near != "" {
			hint = "did you mean " + near + "?"
		}
		p.wrong(e.key, "", "%q is no setting: %s", prefix+e.key.Value, hint)
	}
}

// keys are those of a service.
func (p *parser) keys() []string {
	keys := []string{}
	for _, s := range Settings() {
		keys = append(keys, s.Name)
		if s.Name == "exec" {
			keys = append(keys, "args")
		}
	}
	return keys
}

func find(name string) (Setting, bool) {
	for _, s := range Settings() {
		if s.Name == name {
			return s, true
		}
	}
	return Setting{}, false
}

// scalar reads one value. service is whose {port} may be in it, "" for none.
func (p *parser) scalar(n *yaml.Node, what, service string) Value {
	v := Value{From: p.from(n, what), Given: true}
	n = resolve(n)
	switch {
	case n.Kind != yaml.ScalarNode, n.ShortTag() == "!!null":
		p.wrong(n, what, "is %s: write one value", kindOf(n))
		return v
	case n.ShortTag() == "!!binary":
		p.wrong(n, what, "is binary: write text")
		return v
	}
	text, err := p.expand(n.Value, service)
	if err != nil {
		p.wrong(n, what, "%w", err)
	}
	v.Text = text
	return v
}

// list reads a list of values. A single one is a list of one.
func (p *parser) list(n *yaml.Node, what, service string) (all []Value) {
	if n == nil {
		return nil
	}
	n = resolve(n)
	if n.Kind != yaml.SequenceNode {
		return []Value{p.scalar(n, what, service)}
	}
	for i, one := range n.Content {
		all = append(all, p.scalar(one, fmt.Sprintf("%s[%d]", what, i), service))
	}
	return all
}

// env reads the child's variables: a list of KEY=VALUE, or KEY: VALUE pairs.
func (p *parser) env(n *yaml.Node, what, service string) (all []Value) {
	if n == nil || resolve(n).Kind != yaml.MappingNode {
		return p.list(n, what, service)
	}
	m, _ := p.mapping(n, what, "")
	for _, e := range m.all {
		v := p.scalar(e.value, join(what, e.key.Value), service)
		v.Text = e.key.Value + "=" + v.Text
		all = append(all, v)
	}
	return all
}

// expand replaces ${NAME} by a variable of the environment, $$ by a dollar sign,
// and {port} by the service's free port.
func (p *parser) expand(s, service string) (string, error) {
	var out strings.Builder
	for s != "" {
		before, rest, found := strings.Cut(s, "$")
		out.WriteString(before)
		if !found {
			break
		}
		switch {
		case strings.HasPrefix(rest, "$"):
			out.WriteByte('$')
			s = rest[1:]
		case strings.HasPrefix(rest, "{"):
			name, after, closed := strings.Cut(rest[1:], "}")
			if !closed {
				return "", fmt.Errorf("%q has no end: write ${NAME}, or $$ for a dollar sign", "$"+rest)
			}
			value, err := p.variable(name)
			if err != nil {
				return "", err
			}
			out.WriteString(value)
			s = after
		default:
			out.WriteByte('$')
			s = rest
		}
	}
	return p.port(out.String(), service)
}

// variable looks one up.
func (p *parser) variable(name string) (string, error) {
	if !isVariable(name) {
		return "", fmt.Errorf("${%s} is no variable: write ${NAME}, or $$ for a dollar sign", name)
	}
	if p.options.Variable != nil {
		if value, set := p.options.Variable(name); set {
			return value, nil
		}
	}
	return "", fmt.Errorf("${%s} is not set: set the variable %s, or write $${%s} if that is meant as it stands", name, name, name)
}

func isVariable(name string) bool {
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != ""
}

// portWord stands for a free port.
const portWord = "{port}"

func (p *parser) port(s, service string) (string, error) {
	if service == "" || !strings.Contains(s, portWord) {
		return s, nil
	}
	if p.options.Port == nil {
		return "", fmt.Errorf("%s cannot be had here", portWord)
	}
	n, err := p.options.Port(service)
	if err != nil {
		return "", fmt.Errorf("%s: no port is free: %w", portWord, err)
	}
	return strings.ReplaceAll(s, portWord, strconv.Itoa(int(n))), nil
}

// isEnd reports that there are no more documents.
func isEnd(err error) bool { return errors.Is(err, io.EOF) }

// syntax tells of what is no YAML, in words of people.
func (p *parser) syntax(err error) {
	var load *yaml.LoadError
	if errors.As(err, &load) {
		n := &yaml.Node{Line: load.Mark.Line, Column: load.Mark.Column}
		p.wrong(n, "", "is no YAML: %s", load.Message)
		return
	}
	p.wrong(&yaml.Node{Line: 1, Column: 1}, "", "is no YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
}
