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
	config.Setting
	own bool // of the program itself, not of its service
}

// settings lists them in the order of the help.
func settings() []setting {
	var all []setting
	for _, s := range config.Settings() {
		all = append(all, setting{Setting: s})
	}
	for _, s := range config.ProgramSettings() {
		all = append(all, setting{Setting: s, own: true})
	}
	return all
}

// options is a command line that was found right.
type options struct {
	services []config.Service // one at least
	groups   []config.Group
	file     string     // they come from, "" for the command line
	ports    takenPorts // that the file left open
	admin    adminPlace
	format   logFormat
	level    slog.Level
	unknown  []unknownEnv
	handler  func(out io.Writer) slog.Handler // instead of the usual log; nil = none
}

// addFlags defines the settings as flags. All take text: reading it is the
// business of config, which can say what would be right.
func addFlags(flags *pflag.FlagSet) {
	flags.SortFlags = false
	for _, s := range settings() {
		if s.Repeats() {
			// Not a slice, which would split values at commas.
			flags.StringArray(s.Name, nil, s.Usage)
			continue
		}
		flags.String(s.Name, s.Default, s.Usage)
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
		switch {
		case s.own:
		case s.Repeats():
			s.SetAll(&text, readList(flags, s.Name))
		default:
			s.Set(&text, readValue(flags, s.Name))
		}
	}
	service, err := config.Check(text)
	errs = append(errs, split(err)...)
	o.services = []config.Service{service}
	o.admin, err = readAdmin(readValue(flags, "admin"), readValue(flags, "admin-token-file"), o.services)
	errs = append(errs, split(err)...)
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

// readList returns what was written for a setting that may be repeated. In the
// variable each line is one.
func readList(flags *pflag.FlagSet, name string) []config.Value {
	from, list := "--"+name, []string(nil)
	if flags.Changed(name) {
		// Not GetStringArray, to which one empty value is no value.
		list = flags.Lookup(name).Value.(pflag.SliceValue).GetSlice()
	} else if text, set := os.LookupEnv(envName(name)); text != "" || set && guards(name) {
		from, list = envName(name), strings.Split(strings.TrimRight(text, "\n"), "\n")
	}
	var out []config.Value
	for _, text := range list {
		out = append(out, config.Value{From: from, Text: text, Given: true})
	}
	return out
}

// guards reports whether a setting keeps somebody out, or believes somebody. An
// empty variable, such as one that another was to fill in, is then wrong instead
// of not written: nothing is opened by a slip.
func guards(name string) bool {
	return slices.Contains([]string{"allow", "deny", "accept-proxy-protocol"}, name)
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
		known = append(known, envName(s.Name))
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
