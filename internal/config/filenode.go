package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// entries are a mapping of the file.
type entries struct {
	all   []entry
	byKey map[string]*yaml.Node
}

type entry struct{ key, value *yaml.Node }

// get returns what stands behind a key, nil if nothing does.
func (m entries) get(key string) *yaml.Node { return m.byKey[key] }

// slot is where a value goes.
type slot struct {
	what    string // its name, for people
	service string // whose it is, "" for nobody's
	shared  bool   // it is a default for all
	port    bool   // {port} may be in it
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

// isNull is true for null and ~, which undo a default, but not for nothing at all,
// which most likely was left unfinished.
func isNull(n *yaml.Node) bool {
	n = resolve(n)
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" && n.Value != ""
}

// mapping reads KEY: VALUE pairs. right says what belongs there.
func (p *parser) mapping(n *yaml.Node, what, right string) (m entries, ok bool) {
	target := resolve(n)
	if target.Kind != yaml.MappingNode {
		p.wrong(n, what, "is %s: write %s", kindOf(target), right)
		return m, false
	}
	m.byKey = map[string]*yaml.Node{}
	for i := 0; i+1 < len(target.Content) && p.count(target); i += 2 {
		key, value := resolve(target.Content[i]), target.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode:
			p.wrong(key, what, "has a key that is %s: write a word", kindOf(key))
		case m.get(key.Value) != nil:
			p.wrong(target.Content[i], join(what, key.Value), "is there twice: leave one of them out")
		default:
			m.all = append(m.all, entry{target.Content[i], value})
			m.byKey[key.Value] = value
		}
	}
	for i := range m.all {
		m.all[i].key = asKey(m.all[i].key)
	}
	return m, true
}

// asKey is an alias as a key: its text is that of what it stands for.
func asKey(n *yaml.Node) *yaml.Node {
	if n.Kind != yaml.AliasNode {
		return n
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: resolve(n).Value, Line: n.Line, Column: n.Column}
}

// quietly is mapping for what is read a second time.
func (p *parser) quietly(n *yaml.Node) entries {
	m, _ := new(parser{told: map[string]bool{}}).mapping(n, "", "")
	return m
}

func join(what, key string) string {
	if what == "" {
		return excerpt(key)
	}
	return what + "." + excerpt(key)
}

// kindOf says what a node is, in words of people.
func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode && len(n.Content) == 2 && n.Content[0].Value == "port" && n.Style&yaml.FlowStyle != 0:
		return `a set of KEY: VALUE pairs to YAML (quote it: "{port}")`
	case n.Kind == yaml.MappingNode:
		return "a set of KEY: VALUE pairs"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.AliasNode:
		return "an alias of an alias"
	case n.ShortTag() == "!!null":
		return "empty"
	}
	return strconv.Quote(excerpt(n.Value))
}

// excerpt is enough of s to recognise it.
func excerpt(s string) string {
	const most = 80
	if runes := []rune(s[:min(len(s), 4*most)]); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return s
}

// unknown tells of keys that nobody knows.
func (p *parser) unknown(m entries, known []string, prefix string) {
	all := strings.Join(known, ", ")
	for _, e := range m.all {
		word := e.key.Value
		switch near := p.closest(word, known); {
		case slices.Contains(known, word):
		case word == "<<":
			p.wrong(e.key, prefix+"<<", "is not supported: what services share goes into defaults")
		case near != "":
			p.wrong(e.key, "", "%q is no setting: did you mean %s?", prefix+excerpt(word), near)
		default:
			p.wrong(e.key, "", "%q is no setting: there are %s", prefix+excerpt(word), all)
		}
	}
}

// count bounds how much is read.
func (p *parser) count(n *yaml.Node) bool {
	p.values++
	if p.values == valuesMost+1 {
		p.problems, p.more = nil, 0 // this is all that counts: see keep
		p.wrong(n, "", "is more than %d values, those of aliases counted each time: write less", valuesMost)
	}
	return !p.tooMuch()
}

// scalar reads one value.
func (p *parser) scalar(n *yaml.Node, to slot) Value {
	v := p.at(n, to.what)
	v.Given, v.shared = true, to.shared
	target := resolve(n)
	tag := target.ShortTag()
	switch {
	case !p.count(n):
		v.broken = true
		return v
	case target.Kind != yaml.ScalarNode, tag == "!!null":
		p.note(v, fmt.Errorf("is %s: write one value", kindOf(target)))
	case tag == "!!binary":
		p.note(v, errors.New("is binary: write text"))
	case !strings.HasPrefix(tag, "!!"):
		p.note(v, fmt.Errorf("has the tag %q, which means nothing here: leave it out", excerpt(tag)))
	case len(target.Value) > scalarMost:
		p.note(v, fmt.Errorf("has %d bytes: write at most %d", len(target.Value), scalarMost))
	default:
		var err error
		if v.Text, v.port, err = p.expand(target.Value, to); err == nil {
			return v
		}
		p.note(v, err)
	}
	v.Text, v.broken = "", true
	return v
}

// list reads a list of values. A single one is a list of one.
func (p *parser) list(n *yaml.Node, to slot) (all []Value) {
	target := resolve(n)
	if target.Kind != yaml.SequenceNode {
		return []Value{p.scalar(n, to)}
	}
	what := to.what
	for i, one := range target.Content {
		to.what = fmt.Sprintf("%s[%d]", what, i)
		all = append(all, p.scalar(one, to))
		if p.tooMuch() {
			break
		}
	}
	return all
}

// pairs reads a list of KEY=VALUE, or KEY: VALUE pairs.
func (p *parser) pairs(n *yaml.Node, to slot) (all []Value) {
	if resolve(n).Kind != yaml.MappingNode {
		return p.list(n, to)
	}
	what := to.what
	m, _ := p.mapping(n, what, "")
	for _, e := range m.all {
		if strings.Contains(e.key.Value, "=") {
			p.wrong(e.key, what, "has the name %q: no name has a = in it, write KEY: VALUE", excerpt(e.key.Value))
			continue
		}
		to.what = join(what, e.key.Value)
		v := p.scalar(e.value, to)
		v.Text = e.key.Value + "=" + v.Text
		all = append(all, v)
		if p.tooMuch() {
			break
		}
	}
	return all
}

// syntax tells of what is no YAML, in words of people.
func (p *parser) syntax(err error, data []byte) {
	load, ok := errors.AsType[*yaml.LoadError](err)
	if !ok {
		p.wrong(&yaml.Node{Line: 1, Column: 1}, "", "is no YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	n := &yaml.Node{Line: load.Mark.Line, Column: load.Mark.Column}
	line := lineOf(string(data), n.Line)
	indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
	switch {
	case strings.Contains(indent, "\t"):
		n.Column = strings.IndexByte(indent, '\t') + 1
		p.wrong(n, "", "is indented by a tab: write blanks")
	case strings.Contains(line, portWord):
		p.wrong(n, "", `is no YAML: %s: quote what has {port} in it, such as "127.0.0.1:{port}"`, load.Message)
	default:
		p.wrong(n, "", "is no YAML: %s: %q", load.Message, excerpt(strings.TrimSpace(line)))
	}
}

// lineOf is one line of a text, counted from 1; "" if there are less.
func lineOf(text string, number int) string {
	for line := range strings.Lines(text) {
		if number--; number == 0 {
			return strings.TrimRight(line, "\r\n")
		}
	}
	return ""
}
