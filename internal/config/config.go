// Package config turns what people write, on the command line or in a file, into
// checked settings. A Service is always complete and
// consistent: whoever holds one need not check anything again. Every mistake
// is reported in one go, each in one line that says where it is, what is wrong
// and what would be right. The package looks at the machine (does the program
// exist, which addresses are our own), but opens, creates and starts nothing.
package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// DefaultName is the name of a service whose settings came without one.
const DefaultName = "default"

// maxDefaultConnections bounds the default of MaxConnections where the
// descriptor limit is very high: each connection costs memory as well.
const maxDefaultConnections = 50_000

// spareDescriptors is what tiproxy needs beside its connections: its own
// output, the listener, the child's pipes, reads of /proc.
const spareDescriptors = 64

// Service is the checked settings of one service.
type Service struct {
	Name string // for logs and for the mark in the child's environment

	Bind Addr // where clients connect; port 0 takes a free one
	Dest Addr // where the child listens; with host and port, or no Network if it inherits Bind

	Exec    string   // the program as it was written, for people
	Path    string   // the program's absolute path
	Args    []string // the child's arguments, without the program's name
	Workdir string   // the child's working directory, absolute
	Env     []string // KEY=VALUE, added to the child's environment in order
	User    *User    // who the child runs as; nil = whoever tiproxy does

	Idle         time.Duration // stop the child when unused for this long; 0 = never
	StartTimeout time.Duration // give up a start that is not ready by then; 0 = never
	StopTimeout  time.Duration // from the stop signal to SIGKILL; 0 = SIGKILL at once
	StopSignal   syscall.Signal
	DrainTimeout time.Duration // how long connections may finish at the end; 0 = no waiting

	MaxConnections int  // connections held at once, at least 1
	Share          bool // MaxConnections is a share of what the program can hold, as nobody has written it
	Ready          Ready

	BytePath  BytePath
	NotDirect string // what in these settings does not go with the direct path; "" = nothing

	Controls
	Together // of a file only
	Logs     Logs
}

// Value is one setting as it was written.
type Value struct {
	From  string // where it was written, for people: "--idle", "TIPROXY_IDLE"
	Text  string
	Given bool // false when Text is a default

	line, column int // in a file

	port   bool // {port} was in it
	shared bool // it is a file's default for all services
	broken bool // what is wrong with it was told already
}

// Text is a service as it was written. A Value with empty Text that was not
// given takes the default.
type Text struct {
	Bind, Dest                               Value
	Exec, Workdir, User                      Value
	Env                                      []Value
	Args                                     []string
	Idle, StartTimeout, StopTimeout          Value
	StopSignal, DrainTimeout, MaxConnections Value
	Ready                                    []Value
	BytePath                                 Value

	Allow, Deny, AcceptProxyProtocol    []Value
	WakeOn, WakeRate                    Value
	Quiet, QuietPolicy                  Value
	MaxWaiting, MaxPerSource, MinUptime Value
	ProxyProtocol                       Value

	// Of a file only. Its arguments become Args.
	Group, Logs, LogsSize, LogsKeep Value
	Uses, Wake, Needs, FileArgs     []Value
}

// Defaults of the settings that have a fixed one, as people would write them.
const (
	DefaultBind         = "127.0.0.1:4000"
	DefaultIdle         = "1m"
	DefaultStartTimeout = "1m"
	DefaultStopTimeout  = "20s"
	DefaultStopSignal   = "TERM"
	DefaultDrainTimeout = "5s"
	DefaultWakeOn       = string(WakeOnConnect)
	DefaultQuietPolicy  = string(QuietKeep)
	DefaultPath         = string(PathCopy)
)

// Problem is one mistake in one setting.
type Problem struct {
	From string // the setting: see Value.From
	Err  error

	Line, Column int // in a file, from 1; else 0

	shared bool // see Value
}

// Error reads as a sentence: "--idle: "30" has no unit …", "--dest is missing …".
func (p *Problem) Error() string {
	msg := p.Err.Error()
	if strings.HasPrefix(msg, "is ") || strings.HasPrefix(msg, "has ") {
		return p.From + " " + msg
	}
	return p.From + ": " + msg
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.Err }

// checker collects problems, so that all of them are told at once.
type checker struct {
	problems []error
	places   *places
}

func (c *checker) report(v Value, err error) {
	if err != nil && !v.broken {
		c.problems = append(c.problems, &Problem{From: v.From, Err: err, Line: v.line, Column: v.column, shared: v.shared})
	}
}

// Check returns the settings that t describes. The error joins one *Problem
// per mistake (see errors.Join).
func Check(t Text) (Service, error) {
	s, problems := check(t, DefaultName, new(places))
	if len(problems) > 0 {
		return Service{}, errors.Join(problems...)
	}
	return s, nil
}

// check returns what is right in t, and what is wrong.
func check(t Text, name string, at *places) (Service, []error) {
	c := checker{places: at}
	s := Service{Name: name, Exec: t.Exec.Text, Args: t.Args}
	s.Bind = parsed(&c, t.Bind, DefaultBind, ParseBind)
	s.Dest = c.dest(t)
	s.User = c.user(t.User)
	asUser(s.User, func() {
		s.Workdir = c.workdir(t.Workdir, s.User)
		s.Path = c.program(t.Exec, s.Workdir, s.User)
	})
	for _, v := range t.Env {
		c.report(v, CheckEnv(v.Text))
		s.Env = append(s.Env, v.Text)
	}
	s.Idle = parsed(&c, t.Idle, DefaultIdle, ParseDuration)
	s.StartTimeout = parsed(&c, t.StartTimeout, DefaultStartTimeout, ParseDuration)
	s.StopTimeout = parsed(&c, t.StopTimeout, DefaultStopTimeout, ParseDuration)
	s.StopSignal = parsed(&c, t.StopSignal, DefaultStopSignal, ParseSignal)
	s.DrainTimeout = parsed(&c, t.DrainTimeout, DefaultDrainTimeout, ParseDuration)
	s.MaxConnections = c.maxConnections(t.MaxConnections)
	s.Ready = c.ready(t, s.Bind, s.Workdir)
	s.Controls = c.controls(t, s.Bind)
	s.BytePath, s.NotDirect = c.bytePath(t, s)
	s.Together = c.together(t, name)
	s.Logs = c.logs(t, name)
	c.args(t)
	if s.Dest.Network != "" {
		c.report(t.Dest, c.places.check(s, t.Bind.From))
	}
	return s, c.problems
}

// parsed parses v, or the default when v was left out.
func parsed[T any](c *checker, v Value, def string, parse func(string) (T, error)) T {
	text := v.Text
	if !v.Given && text == "" {
		text = def
	}
	out, err := parse(text)
	c.report(v, err)
	return out
}

// dest is where the child listens: nowhere, if it takes its clients from bind.
func (c *checker) dest(t Text) Addr {
	v := t.Dest
	if t.BytePath.broken && !v.Given {
		return Addr{} // it may be none that needs one
	}
	if inherit := parseBytePath(new(checker), t) == PathInherit; inherit && !v.Given {
		return Addr{}
	} else if inherit {
		c.report(v, fmt.Errorf("is %s, but with --path inherit the child takes its clients from --bind itself: leave --dest out", v.Text))
		return Addr{}
	}
	if !v.Given {
		c.report(v, errors.New("is missing: say where the child listens, for example 127.0.0.1:3000"))
		return Addr{}
	}
	a, err := ParseDest(v.Text)
	c.report(v, err)
	return a
}

// args refuses what the kernel cannot hand to a program. The command line
// cannot contain it, a file can.
func (c *checker) args(t Text) {
	for i, a := range t.Args {
		if hasNUL(a) {
			c.report(t.Exec, fmt.Errorf("argument %d contains a NUL byte, which no program can receive", i+1))
		}
	}
}

func (c *checker) maxConnections(v Value) int {
	limit := descriptorLimit()
	if !v.Given {
		return defaultConnections(limit)
	}
	n, err := strconv.Atoi(v.Text)
	switch most := mostConnections(limit); {
	case err != nil:
		c.report(v, fmt.Errorf("%q is not a whole number: write for example 1000", v.Text))
	case n < 1:
		c.report(v, fmt.Errorf("%d is too small: write 1 or more, or leave it out for %d", n, defaultConnections(limit)))
	case n > most:
		c.report(v, fmt.Errorf("%d connections need 2 file descriptors each, the limit is %d (ulimit -n): raise it or write at most %d", n, limit, most))
	}
	return n
}

// defaultConnections is 3/8 of the descriptor limit: a connection takes two
// descriptors, and some more while it moves bulk.
func defaultConnections(limit uint64) int {
	return int(max(1, min(limit/8*3+limit%8*3/8, maxDefaultConnections)))
}

// mostConnections is how many idle connections fit under the limit at all.
func mostConnections(limit uint64) int {
	const huge = 1 << 30
	if limit <= spareDescriptors {
		return defaultConnections(limit)
	}
	return max(int(min((limit-spareDescriptors)/2, huge)), defaultConnections(limit))
}

// descriptorLimit is the soft limit on open files of this process. Go has
// raised it to the hard limit at start-up; see getrlimit(2).
func descriptorLimit() uint64 {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 1024
	}
	return uint64(r.Cur) //nolint:unconvert // signed on some systems
}
