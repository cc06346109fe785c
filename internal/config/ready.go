package config

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"regexp/syntax"
	"runtime"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Ready says how it is recognised that the child is ready. All that it names
// must hold: one of Listen and Dial at least, again and again, the others once
// in each life of the child.
type Ready struct {
	Listen bool // the kernel's socket tables show a listener of the child on dest
	Dial   bool // a connection to dest succeeds

	URLs     []*url.URL       // each answers 200 to 399
	Commands []Command        // each ends with status 0
	Lines    []*regexp.Regexp // each matches a line that the child prints
	Notify   bool             // the child says READY=1, see sd_notify(3)
}

// Command is a program with its arguments.
type Command struct {
	Path string   // of the program, absolute
	Args []string // as it was written, the program first
}

// The words that say how readiness is recognised, or what such words begin with.
const (
	ReadyListen = "listen"
	ReadyDial   = "dial"
	ReadyNotify = "notify"
	ReadyHTTP   = "http://"
	ReadyExec   = "exec:"
	ReadyLog    = "log:"
)

// readyWays is what may be written.
const readyWays = "listen, dial, http://HOST:PORT/PATH, exec:COMMAND, log:REGEX or notify"

// notifyName is the variable that tells a program where to say READY=1.
const notifyName = "NOTIFY_SOCKET"

// DefaultReady is the best way to recognise a child that takes connections that
// this system offers: ReadyListen or ReadyDial. It is asked in any case, unless
// one of the two was named.
func DefaultReady() string {
	if onLinux {
		return ReadyListen
	}
	return ReadyDial
}

const onLinux = runtime.GOOS == "linux"

// ready reads what was written about readiness. workdir is "" when it is not
// known.
func (c *checker) ready(t Text, bind Addr, workdir string) Ready {
	var r Ready
	for _, v := range t.Ready {
		c.report(v, r.add(v.Text, workdir))
	}
	if !r.Listen && !r.Dial {
		r.Listen, r.Dial = onLinux, !onLinux
	}
	c.readyBesideOthers(r, t, bind)
	return r
}

// add reads one way to recognise readiness.
func (r *Ready) add(s, workdir string) (err error) {
	rest := func(prefix string) string { return s[len(prefix):] }
	switch {
	case s == "":
		return fmt.Errorf("is empty: write %s", readyWays)
	case hasNUL(s):
		return fmt.Errorf("%q contains a NUL byte: write %s", s, readyWays)
	case !onLinux && (s == ReadyListen || s == ReadyNotify):
		return fmt.Errorf("%q needs Linux: write dial, http://HOST:PORT/PATH, exec:COMMAND or log:REGEX", s)
	case s == ReadyListen:
		r.Listen = true
	case s == ReadyDial:
		r.Dial = true
	case s == ReadyNotify:
		r.Notify = true
	case hasScheme(s):
		var u *url.URL
		u, err = ParseReadyURL(s)
		r.URLs = append(r.URLs, u)
	case strings.HasPrefix(s, ReadyExec):
		var cmd Command
		cmd, err = readyCommand(rest(ReadyExec), workdir)
		r.Commands = append(r.Commands, cmd)
	case strings.HasPrefix(s, ReadyLog):
		var re *regexp.Regexp
		re, err = ParsePattern(rest(ReadyLog))
		r.Lines = append(r.Lines, re)
	default:
		return fmt.Errorf("%q is not known: write %s", s, readyWays)
	}
	return err
}

// hasScheme is true for what was meant as a URL.
func hasScheme(s string) bool {
	scheme, _, found := strings.Cut(strings.ToLower(s), ":/")
	return found && (scheme == "http" || scheme == "https")
}

// ParseReadyURL reads the URL of a request that shows whether the child is
// ready.
func ParseReadyURL(s string) (*url.URL, error) {
	if strings.ContainsFunc(s, isUnprintable) {
		return nil, fmt.Errorf("%q has blanks or control characters in it: write for example http://127.0.0.1:3000/health, and %%20 for a blank", s)
	}
	if len(s) >= 6 && strings.EqualFold(s[:6], "https:") {
		return nil, fmt.Errorf("%q: tiproxy checks no certificates: write exec:curl -fsS -o /dev/null %s", s, s)
	}
	u, err := url.Parse(s)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("%q is not a URL (%w): write for example http://127.0.0.1:3000/health", s, err)
	}
	switch port := u.Port(); {
	case u.Hostname() == "":
		return nil, fmt.Errorf("%q has no host: write for example http://127.0.0.1:3000/health", s)
	case port == "" && strings.HasSuffix(u.Host, ":"):
		return nil, fmt.Errorf("%q has no port behind its colon: write for example http://%s3000/", s, u.Host)
	case port != "":
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("%q: port %s is none: write 1 to 65535", s, port)
		}
	}
	if u.Fragment != "" || strings.HasSuffix(s, "#") {
		return nil, fmt.Errorf("%q: what is behind # is never sent: leave it out", s)
	}
	return u, nil
}

// urlAddr is where a request for u goes.
func urlAddr(u *url.URL) Addr {
	port, _ := strconv.ParseUint(u.Port(), 10, 16) // checked
	if u.Port() == "" {
		port = 80
	}
	return Addr{Network: "tcp", Host: u.Hostname(), Port: uint16(port)}
}

// readyCommand reads a command line and finds its program.
func readyCommand(line, workdir string) (Command, error) {
	words, err := SplitWords(line)
	if err != nil {
		return Command{}, err
	}
	path, err := findProgram(words[0], workdir)
	if err != nil {
		return Command{}, err
	}
	return Command{Path: path, Args: words}, nil
}

// ParsePattern reads the pattern of a line: RE2, see
// https://github.com/google/re2/wiki/Syntax.
func ParsePattern(s string) (*regexp.Regexp, error) {
	if s == "" {
		return nil, errors.New(`"log:" has no pattern: write for example log:ready for connections`)
	}
	re, err := regexp.Compile(s)
	if err == nil {
		return re, nil
	}
	var bad *syntax.Error
	if !errors.As(err, &bad) {
		return nil, fmt.Errorf("%q: %w", s, err)
	}
	right := `see RE2's syntax, and write \ in front of a sign that stands for itself`
	if bad.Code == syntax.ErrInvalidPerlOp {
		right = "RE2 knows no (?= (?! (?<= or (?<! : do without"
	}
	return nil, fmt.Errorf("%q: %s %s: %s", s, bad.Code, whereIn(s, bad), right)
}

// whereIn tells where in a pattern a mistake is. The compiler says only which
// piece it is in, and that piece may occur more than once; so the beginning of
// the pattern that already has the mistake is looked for.
func whereIn(pattern string, bad *syntax.Error) string {
	const most = 1000 // bytes; the search is quadratic
	if bad.Code == syntax.ErrMissingParen || bad.Code == syntax.ErrTrailingBackslash {
		return "at its end"
	}
	for n := 1; n <= len(pattern) && n <= most; n++ {
		var e *syntax.Error
		if _, err := syntax.Parse(pattern[:n], syntax.Perl); !errors.As(err, &e) || e.Code != bad.Code {
			continue
		}
		switch {
		case e.Code == syntax.ErrUnexpectedParen:
			return atCharacter(pattern, n-1)
		case e.Expr == bad.Expr && n >= len(e.Expr):
			return atCharacter(pattern, n-len(e.Expr))
		}
	}
	return fmt.Sprintf("in %q", bad.Expr)
}

func atCharacter(pattern string, at int) string {
	return fmt.Sprintf("at character %d", utf8.RuneCountInString(pattern[:at])+1)
}

// readyBesideOthers checks what can only be said of readiness and other
// settings together.
func (c *checker) readyBesideOthers(r Ready, t Text, bind Addr) {
	for _, v := range t.Ready {
		if !hasScheme(v.Text) || bind.Network == "" {
			continue
		}
		if u, err := ParseReadyURL(v.Text); err == nil && c.places.same(bind, urlAddr(u)) {
			c.report(v, fmt.Errorf("%s is where tiproxy itself listens (%s %s), it would wait for itself: write the child's own address", u.Redacted(), t.Bind.From, bind))
		}
	}
	for _, v := range t.Env {
		if name, _, _ := strings.Cut(v.Text, "="); r.Notify && name == notifyName {
			c.report(v, fmt.Errorf("%s is set by tiproxy itself for --ready notify: leave one of them out", notifyName))
		}
	}
}
