package config

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// portWord stands for a free port.
const portWord = "{port}"

// portGoes are the settings in which it may be: those that tell the child where to
// listen, and how to see that it does.
var portGoes = map[string]bool{"dest": true, "args": true, "env": true, "ready": true}

// expand replaces ${NAME} by a variable of the environment, $$ by a dollar sign,
// and {port} by the service's free port, which it reports. What comes out of a
// variable is left as it is.
func (p *parser) expand(s string, to slot) (text string, port bool, err error) {
	var out strings.Builder
	for s != "" {
		i := strings.IndexAny(s, "${")
		if i < 0 {
			break
		}
		out.WriteString(s[:i])
		s = s[i:]
		var piece string
		switch {
		case strings.HasPrefix(s, "$${"):
			piece, s = "${", s[3:]
		case strings.HasPrefix(s, "$$"):
			piece, s = "$", s[2:]
		case strings.HasPrefix(s, "${"):
			piece, s, err = p.variable(s)
		case strings.HasPrefix(s, portWord) && to.service != "":
			port = true
			piece, err = p.port(to)
			s = s[len(portWord):]
		default:
			piece, s = s[:1], s[1:]
		}
		if err != nil {
			return "", port, err
		}
		out.WriteString(piece)
	}
	return out.String() + s, port, nil
}

// variable replaces the ${NAME} that s begins with, and returns what is behind it.
func (p *parser) variable(s string) (value, rest string, err error) {
	name, rest, closed := strings.Cut(s[2:], "}")
	switch {
	case !closed:
		return "", "", fmt.Errorf("%q has no end: write ${NAME}, or $$ for a dollar sign", excerpt(s))
	case !isVariable(name):
		return "", "", fmt.Errorf("%q is no variable: write ${NAME}, or $$ for a dollar sign", "${"+excerpt(name)+"}")
	}
	if p.options.Variable != nil {
		if value, set := p.options.Variable(name); set {
			return value, rest, nil
		}
	}
	name = excerpt(name)
	return "", "", fmt.Errorf("${%s} is not set: set the variable %s, or write $${%s} if that is meant as it stands", name, name, name)
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

// port is the service's free port.
func (p *parser) port(to slot) (string, error) {
	switch {
	case !to.port:
		return "", fmt.Errorf("has %s in it, which goes into dest, args, env and ready only", portWord)
	case p.options.Port == nil:
		return "", fmt.Errorf("%s cannot be had here", portWord)
	}
	n, err := p.options.Port(to.service, func(port uint16) bool { return p.taken[port] })
	if err != nil {
		return "", fmt.Errorf("%s: no port is free: %w", portWord, err)
	}
	return strconv.Itoa(int(n)), nil
}

// portOf refuses a {port} on which nobody is looked for.
func (p *parser) portOf(t Text) {
	if t.Dest.port || t.Dest.broken {
		return
	}
	why := fmt.Errorf("has %s, the port on which the child listens, but dest has not: write for example dest: 127.0.0.1:%s", portWord, portWord)
	if !t.Dest.Given && t.BytePath.Text == string(PathInherit) {
		why = fmt.Errorf("has %s, but with path: inherit the child is handed its socket: leave it out", portWord)
	}
	for _, list := range [][]Value{t.FileArgs, t.Env, t.Ready} {
		for _, v := range list {
			if v.port && !v.broken {
				p.note(v, why)
				return
			}
		}
	}
}

var aVariable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// portsIn are the numbers in a file and in the variables that it takes. A free port
// is none of them: whatever they are there for, it is not to be in their way.
func (p *parser) portsIn(text string) map[uint16]bool {
	ports := map[uint16]bool{}
	add := func(text string) {
		for number := range strings.FieldsFuncSeq(text, func(r rune) bool { return r < '0' || r > '9' }) {
			if n, err := strconv.ParseUint(number, 10, 16); err == nil {
				ports[uint16(n)] = true
			}
		}
	}
	add(text)
	add(DefaultBind)
	for _, m := range aVariable.FindAllStringSubmatch(text, -1) {
		if p.options.Variable == nil {
			break
		}
		if value, set := p.options.Variable(m[1]); set {
			add(value)
		}
	}
	return ports
}

// fileError says what is wrong in words of a file: a setting is written there as
// KEY: VALUE. It is also cut to a length that people read.
type fileError struct{ err error }

func (e *fileError) Unwrap() error { return e.err }

func (e *fileError) Error() string {
	const most = 1000
	text := e.err.Error()
	if args, ok := errors.AsType[*argsError](e.err); ok {
		text = strings.Replace(text, args.Error(), args.inFile(), 1)
	}
	text = aLongWord.ReplaceAllStringFunc(inFileWords(text), excerpt)
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most/2], "") + " … " + strings.ToValidUTF8(text[len(text)-most/2:], "")
	}
	return text
}

// aLongWord is one that nobody reads to its end.
var aLongWord = regexp.MustCompile(`[^\s"]{400,}`)

// aFlag is a setting in words of the command line, with its value.
var aFlag = regexp.MustCompile(`--([a-z][a-z-]*)( (?:auto|copy|direct|inherit|listen|dial|notify|data|close|ignore|[0-9]+m)\b)?`)

// inFileWords turns "write --ready dial" into "write ready: dial".
func inFileWords(text string) string {
	return aFlag.ReplaceAllStringFunc(text, func(s string) string {
		m := aFlag.FindStringSubmatch(s)
		switch _, known := find(serviceKey, m[1]); {
		case !known:
			return s
		case m[2] == "":
			return m[1]
		}
		return m[1] + ":" + m[2]
	})
}

// FileUsage is what the setting does, in words of a file.
func (s Setting) FileUsage() string {
	return strings.TrimSuffix(inFileWords(s.Usage), "; may be repeated")
}
