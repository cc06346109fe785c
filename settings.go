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
	service   func(*config.Text) *config.Value   // where it goes; nil for settings of the program itself and lists
	list      func(*config.Text) *[]config.Value // where it goes if it may be repeated
}

// settings lists them in the order of the help.
func settings() []setting {
	type text = config.Text
	type value = config.Value
	type list = []config.Value
	return []setting{
		{"bind", "ADDR", config.DefaultBind, "where clients connect: host:port, :port, [v6]:port or unix:/path; port 0 takes a free one", func(t *text) *value { return &t.Bind }, nil},
		{"dest", "ADDR", "", "where the child listens: host:port or unix:/path (required but with --path inherit)", func(t *text) *value { return &t.Dest }, nil},
		{"exec", "PROGRAM", "", "the child's program: a path, or a name looked up in PATH, then in --workdir (required)", func(t *text) *value { return &t.Exec }, nil},
		{"workdir", "DIR", "", "the child's working directory (default: the current one)", func(t *text) *value { return &t.Workdir }, nil},
		{"env", "KEY=VALUE", "", "added to the child's environment; may be repeated", nil, func(t *text) *list { return &t.Env }},
		{"user", "USER[:GROUP]", "", "who the child runs as, with its groups: names or numbers (default: as tiproxy does)", func(t *text) *value { return &t.User }, nil},
		{"idle", "DURATION", config.DefaultIdle, "stop the child when nobody has been connected for this long; 0 = never", func(t *text) *value { return &t.Idle }, nil},
		{"start-timeout", "DURATION", config.DefaultStartTimeout, "give up a start that is not ready by then; 0 = never", func(t *text) *value { return &t.StartTimeout }, nil},
		{"stop-timeout", "DURATION", config.DefaultStopTimeout, "from the stop signal to SIGKILL of the whole tree; 0 = SIGKILL at once", func(t *text) *value { return &t.StopTimeout }, nil},
		{"stop-signal", "NAME", config.DefaultStopSignal, "first signal of a stop", func(t *text) *value { return &t.StopSignal }, nil},
		{"drain-timeout", "DURATION", config.DefaultDrainTimeout, "how long connections may finish when tiproxy itself is stopped; 0 = no waiting", func(t *text) *value { return &t.DrainTimeout }, nil},
		{"max-connections", "N", "", "connections held at once, the kernel's backlog holds the rest (default: 3/8 of the descriptor limit, at most 50,000)", func(t *text) *value { return &t.MaxConnections }, nil},
		{"ready", "KIND", config.DefaultReady(), "how readiness is recognised: listen (the kernel's tables) or dial (a connection) and, beside it, http://HOST:PORT/PATH (answers 200-399), exec:COMMAND (ends with 0), log:REGEX (a line the child prints), notify (sd_notify's READY=1); may be repeated, all must hold", nil, func(t *text) *list { return &t.Ready }},
		{"min-uptime", "DURATION", "", "a child that is ready is not stopped for being idle before this time", func(t *text) *value { return &t.MinUptime }, nil},
		{"allow", "CIDR,...", "", "only clients of these networks may connect, the others are reset; may be repeated", nil, func(t *text) *list { return &t.Allow }},
		{"deny", "CIDR,...", "", "clients of these networks are reset, also if allowed; may be repeated", nil, func(t *text) *list { return &t.Deny }},
		{"wake-on", "WHAT", config.DefaultWakeOn, "what starts the child: connect, or data = the client's first byte, before which it is not connected (not for servers that speak first: MySQL, MariaDB, TiDB, SSH, SMTP, FTP)", func(t *text) *value { return &t.WakeOn }, nil},
		{"wake-rate", "N/DURATION", "", "how often one source network (/24, /64) may start the child; beyond it its clients wait", func(t *text) *value { return &t.WakeRate }, nil},
		{"quiet", "DURATION", "", "a connection that carried no byte for this long is quiet; see --quiet-policy", func(t *text) *value { return &t.Quiet }, nil},
		{"quiet-policy", "POLICY", config.DefaultQuietPolicy, "a quiet connection: keep = keeps the child awake like any other, close = is ended, ignore = stays and does not keep the child awake", func(t *text) *value { return &t.QuietPolicy }, nil},
		{"max-waiting", "N", "", "connections that wait for the child at once, the kernel's backlog holds the rest", func(t *text) *value { return &t.MaxWaiting }, nil},
		{"max-per-source", "N", "", "connections of one address (IPv6: /64) at once, further ones are reset", func(t *text) *value { return &t.MaxPerSource }, nil},
		{"proxy-protocol", "VERSION", "", "tell the child its client's address by a PROXY protocol header: v1 or v2", func(t *text) *value { return &t.ProxyProtocol }, nil},
		{"accept-proxy-protocol", "CIDR,...", "", "believe, and require, a PROXY protocol header from these peers, and from nobody else; may be repeated", nil, func(t *text) *list { return &t.AcceptProxyProtocol }},
		{"path", "PATH", config.DefaultPath, "how bytes get to the child: copy = tiproxy carries them, direct = the kernel leads clients to the child itself (Linux, root or CAP_BPF and CAP_NET_ADMIN), auto = direct where nothing speaks against it, inherit = the child is handed the socket itself (LISTEN_FDS) and --dest is left out", func(t *text) *value { return &t.BytePath }, nil},
		{"admin", "ADDR", "", "where tiproxy can be asked whether it is well: unix:/path, for its own user only (see tiproxy healthcheck)", nil, nil},
		{"log-format", "FORMAT", "auto", "tiproxy's own log, on stderr: text, json, or auto = text on a terminal", nil, nil},
		{"log-level", "LEVEL", "info", "debug, info, warn or error", nil, nil},
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
		if s.list != nil {
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
		switch {
		case s.service != nil:
			*s.service(&text) = readValue(flags, s.name)
		case s.list != nil:
			*s.list(&text) = readList(flags, s.name)
		}
	}
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
