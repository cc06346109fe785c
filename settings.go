package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"tiproxy/internal/config"
)

// envPrefix begins the environment variables that stand for flags.
const envPrefix = "TIPROXY_"

// childMark is set by tiproxy for its child. A tiproxy that is itself such a
// child finds it among its variables.
const childMark = "TIPROXY_CHILD"

// setting is one flag of the main command, which is also an environment
// variable.
type setting struct {
	name, arg string
	def       string // shown as default; "" = none
	usage     string
	service   func(*config.Text) *config.Value // where it goes; nil for settings of the program itself
}

// settings lists them in the order of the help.
func settings() []setting {
	type text = config.Text
	type value = config.Value
	return []setting{
		{"bind", "ADDR", config.DefaultBind, "where clients connect: host:port, :port, [v6]:port or unix:/path; port 0 takes a free one", func(t *text) *value { return &t.Bind }},
		{"dest", "ADDR", "", "where the child listens: host:port or unix:/path (required)", func(t *text) *value { return &t.Dest }},
		{"exec", "PROGRAM", "", "the child's program: a path, or a name looked up in PATH, then in --workdir (required)", func(t *text) *value { return &t.Exec }},
		{"workdir", "DIR", "", "the child's working directory (default: the current one)", func(t *text) *value { return &t.Workdir }},
		{"env", "KEY=VALUE", "", "added to the child's environment; may be repeated", nil},
		{"idle", "DURATION", config.DefaultIdle, "stop the child when nobody has been connected for this long; 0 = never", func(t *text) *value { return &t.Idle }},
		{"start-timeout", "DURATION", config.DefaultStartTimeout, "give up a start that is not ready by then; 0 = never", func(t *text) *value { return &t.StartTimeout }},
		{"stop-timeout", "DURATION", config.DefaultStopTimeout, "from the stop signal to SIGKILL of the whole tree; 0 = SIGKILL at once", func(t *text) *value { return &t.StopTimeout }},
		{"stop-signal", "NAME", config.DefaultStopSignal, "first signal of a stop", func(t *text) *value { return &t.StopSignal }},
		{"drain-timeout", "DURATION", config.DefaultDrainTimeout, "how long connections may finish when tiproxy itself is stopped; 0 = no waiting", func(t *text) *value { return &t.DrainTimeout }},
		{"max-connections", "N", "", "connections held at once, the kernel's backlog holds the rest (default: 3/8 of the descriptor limit, at most 50,000)", func(t *text) *value { return &t.MaxConnections }},
		{"ready", "KIND", string(config.DefaultReady()), "how readiness is recognised: listen (the kernel's tables) or dial (a connection)", func(t *text) *value { return &t.Ready }},
		{"admin", "ADDR", "", "where tiproxy can be asked whether it is well: unix:/path, for its own user only (see tiproxy healthcheck)", nil},
		{"log-format", "FORMAT", "auto", "tiproxy's own log, on stderr: text, json, or auto = text on a terminal", nil},
		{"log-level", "LEVEL", "info", "debug, info, warn or error", nil},
	}
}

// options is a command line that was found right.
type options struct {
	service config.Service
	admin   config.Addr // no Network = nobody can ask
	format  logFormat
	level   slog.Level
	unknown []unknownEnv
	handler func(out io.Writer) slog.Handler // instead of the usual log; nil = none
}

// addFlags defines the settings as flags. All take text: reading it is the
// business of config, which can say what would be right.
func addFlags(flags *pflag.FlagSet) {
	flags.SortFlags = false
	for _, s := range settings() {
		if s.name == "env" {
			// Not a slice, which would split values at commas.
			flags.StringArray(s.name, nil, s.usage)
			continue
		}
		flags.String(s.name, s.def, s.usage)
	}
}

// readOptions checks everything that was written. words are those in front of
// "--", args those behind it.
func readOptions(flags *pflag.FlagSet, words, args []string) (options, error) {
	if err := swallowedFlag(flags); err != nil {
		return options{}, &usageError{err}
	}
	var o options
	errs := unknownEnvErrors(&o)
	if len(words) > 0 {
		errs = append(errs, leftoverError(words))
	}
	text := config.Text{Args: args}
	for _, s := range settings() {
		if s.service != nil {
			*s.service(&text) = readValue(flags, s.name)
		}
	}
	text.Env = readEnv(flags)
	service, err := config.Check(text)
	errs = append(errs, split(err)...)
	o.service = service
	adminAt := readValue(flags, "admin")
	o.admin, err = readAdmin(adminAt, service)
	errs = appendProblem(errs, adminAt, err)
	format := readValue(flags, "log-format")
	o.format, err = parseLogFormat(format.Text)
	errs = appendProblem(errs, format, err)
	level := readValue(flags, "log-level")
	o.level, err = parseLogLevel(level.Text)
	errs = appendProblem(errs, level, err)
	if len(errs) == len(o.unknown) {
		return o, nil // unknown variables alone are worth a warning only
	}
	return options{}, &usageError{errors.Join(errs...)}
}

func appendProblem(errs []error, v config.Value, err error) []error {
	if err == nil {
		return errs
	}
	return append(errs, &config.Problem{From: v.From, Err: err})
}

// readValue returns what was written for a setting: by flag, else by
// environment, else its default. An empty variable counts as not written, as
// container tools set one where they mean none.
func readValue(flags *pflag.FlagSet, name string) config.Value {
	flag := flags.Lookup(name)
	v := config.Value{From: "--" + name, Text: flag.Value.String(), Given: flag.Changed}
	if v.Given {
		return v
	}
	if text := os.Getenv(envName(name)); text != "" {
		return config.Value{From: envName(name), Text: text, Given: true}
	}
	return v
}

// readEnv returns the additions to the child's environment. In the variable
// each line is one.
func readEnv(flags *pflag.FlagSet) []config.Value {
	from, list := "--env", []string(nil)
	if flags.Changed("env") {
		list, _ = flags.GetStringArray("env")
	} else if text := strings.TrimRight(os.Getenv(envName("env")), "\n"); text != "" {
		from, list = envName("env"), strings.Split(text, "\n")
	}
	var out []config.Value
	for _, kv := range list {
		out = append(out, config.Value{From: from, Text: kv, Given: true})
	}
	return out
}

// envName is the variable that stands for a flag.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// unknownEnv is a variable that looks like one of ours and is none.
type unknownEnv struct{ name, meant string }

// Error is what people read when the command line is wrong anyway.
func (u unknownEnv) Error() string {
	if u.meant == "" {
		return fmt.Sprintf("the environment variable %s means nothing to tiproxy: see --help for those that do", u.name)
	}
	return fmt.Sprintf("the environment variable %s means nothing to tiproxy: did you mean %s?", u.name, u.meant)
}

// unknownEnvErrors finds misspelt variables, sorted by name.
func unknownEnvErrors(o *options) []error {
	known := []string{childMark}
	for _, s := range settings() {
		known = append(known, envName(s.name))
	}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, envPrefix) && !slices.Contains(known, name) {
			o.unknown = append(o.unknown, unknownEnv{name, closest(name, known[1:])})
		}
	}
	slices.SortFunc(o.unknown, func(a, b unknownEnv) int { return strings.Compare(a.name, b.name) })
	var errs []error
	for _, u := range o.unknown {
		errs = append(errs, u)
	}
	return errs
}
