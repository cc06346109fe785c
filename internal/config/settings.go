package config

import (
	"slices"
	"sync"
)

// Setting is one thing that can be set, wherever it is written: a flag of the
// command line, a variable of the environment and a key of a file have the same
// name. Flags, keys, their schema and their reference all come from one table.
type Setting struct {
	Name, Arg string
	Default   string // shown as default; "" = none, or one that depends on the machine
	Usage     string // in words of the command line; see FileUsage
	Kind      Kind
	Words     []string // all that may be written for a Word

	scope scope
	value func(*Text) *Value   // where it goes; nil for a list, and for what no service has
	list  func(*Text) *[]Value // where it goes if it may be repeated
}

// Kind is how a setting's value is written.
type Kind uint8

// The kinds.
const (
	Plain     Kind = iota // some text
	Address               // host:port or unix:/path
	Duration              // 30s
	Count                 // a whole number from 1
	Number                // a whole number from 0
	Frequency             // N/DURATION
	Word                  // one of a few
	Size                  // 16GiB
	Networks              // 10.0.0.0/8,::1
	Pairs                 // KEY=VALUE
	Names                 // of services
)

// scope is where a setting may be written.
type scope uint8

const (
	serviceFlag scope = 1 << iota // on the command line
	programFlag                   // likewise, and it is about tiproxy itself
	serviceKey                    // in a file, of one service
	defaultsKey                   // and for all services
	topKey                        // in a file, at the top
	groupKey                      // in a file, of a group

	each   = serviceFlag | serviceKey // every service has its own
	common = each | defaultsKey
	inFile = serviceKey | defaultsKey
	whole  = programFlag | topKey
)

// Repeats reports whether the setting may be given several times.
func (s Setting) Repeats() bool { return s.list != nil }

// Set takes what was written for a setting that may be given once.
func (s Setting) Set(t *Text, v Value) { *s.value(t) = v }

// SetAll takes all that was written for a setting that may be repeated.
func (s Setting) SetAll(t *Text, all []Value) { *s.list(t) = all }

// Settings lists the flags of a service in the order of the help.
func Settings() []Setting { return within(serviceFlag) }

// ProgramSettings lists the flags that are about tiproxy itself.
func ProgramSettings() []Setting { return within(programFlag) }

// within lists the settings that may be written in a place.
func within(place scope) (all []Setting) {
	for _, s := range table() {
		if s.scope&place != 0 {
			all = append(all, s)
		}
	}
	return all
}

// names lists what may be written in a place.
func names(place scope) (all []string) {
	for _, s := range within(place) {
		all = append(all, s.Name)
	}
	return all
}

// find returns the setting of a name that may be written in a place.
func find(place scope, name string) (Setting, bool) {
	for _, s := range table() {
		if s.scope&place != 0 && s.Name == name {
			return s, true
		}
	}
	return Setting{}, false
}

// table is all settings. It is not to be changed.
var table = sync.OnceValue(func() []Setting {
	return slices.Concat(childSettings(), controlSettings(), fileSettings(), programSettings())
})

func once(where scope, name string, kind Kind, arg, def, usage string, to func(*Text) *Value) Setting {
	return Setting{Name: name, Arg: arg, Default: def, Usage: usage, Kind: kind, scope: where, value: to}
}

func several(where scope, name string, kind Kind, arg, def, usage string, to func(*Text) *[]Value) Setting {
	return Setting{Name: name, Arg: arg, Default: def, Usage: usage, Kind: kind, scope: where, list: to}
}

// of limits a setting to some words.
func (s Setting) of(words ...string) Setting {
	s.Kind, s.Words = Word, words
	return s
}

// childSettings are about what is started, when and how it is stopped.
func childSettings() []Setting {
	return []Setting{
		once(each, "bind", Address, "ADDR", DefaultBind, "where clients connect: host:port, :port, [v6]:port or unix:/path; port 0 takes a free one", func(t *Text) *Value { return &t.Bind }),
		once(each, "dest", Address, "ADDR", "", "where the child listens: host:port or unix:/path (required but with --path inherit)", func(t *Text) *Value { return &t.Dest }),
		once(each, "exec", Plain, "PROGRAM", "", "the child's program: a path, or a name looked up in PATH, then in --workdir (required)", func(t *Text) *Value { return &t.Exec }),
		several(serviceKey, "args", Plain, "[ARG...]", "", "the child's arguments, word by word", func(t *Text) *[]Value { return &t.FileArgs }),
		once(common, "workdir", Plain, "DIR", "", "the child's working directory (default: the current one)", func(t *Text) *Value { return &t.Workdir }),
		several(common, "env", Pairs, "KEY=VALUE", "", "added to the child's environment; may be repeated", func(t *Text) *[]Value { return &t.Env }),
		once(common, "user", Plain, "USER[:GROUP]", "", "who the child runs as, with its groups: names or numbers (default: as tiproxy does)", func(t *Text) *Value { return &t.User }),
		once(common, "idle", Duration, "DURATION", DefaultIdle, "stop the child when nobody has been connected for this long; 0 = never", func(t *Text) *Value { return &t.Idle }),
		once(common, "start-timeout", Duration, "DURATION", DefaultStartTimeout, "give up a start that is not ready by then; 0 = never", func(t *Text) *Value { return &t.StartTimeout }),
		once(common, "stop-timeout", Duration, "DURATION", DefaultStopTimeout, "from the stop signal to SIGKILL of the whole tree; 0 = SIGKILL at once", func(t *Text) *Value { return &t.StopTimeout }),
		once(common, "stop-signal", Plain, "NAME", DefaultStopSignal, "first signal of a stop", func(t *Text) *Value { return &t.StopSignal }),
		once(common, "drain-timeout", Duration, "DURATION", DefaultDrainTimeout, "how long connections may finish when tiproxy itself is stopped; 0 = no waiting", func(t *Text) *Value { return &t.DrainTimeout }),
		once(common, "max-connections", Count, "N", "", "connections held at once, the kernel's backlog holds the rest (default: 3/8 of the descriptor limit, at most 50,000)", func(t *Text) *Value { return &t.MaxConnections }),
		several(common, "ready", Plain, "KIND", DefaultReady(), "how readiness is recognised: listen (the kernel's tables) or dial (a connection) and, beside it, http://HOST:PORT/PATH (answers 200-399), exec:COMMAND (ends with 0), log:REGEX (a line the child prints), notify (sd_notify's READY=1); may be repeated, all must hold", func(t *Text) *[]Value { return &t.Ready }),
		once(common, "min-uptime", Duration, "DURATION", "", "a child that is ready is not stopped for being idle before this time", func(t *Text) *Value { return &t.MinUptime }),
	}
}

// controlSettings are about who may connect, who may wake the child, and how
// bytes get to it.
func controlSettings() []Setting {
	return []Setting{
		several(common, "allow", Networks, "CIDR,...", "", "only clients of these networks may connect, the others are reset; may be repeated", func(t *Text) *[]Value { return &t.Allow }),
		several(common, "deny", Networks, "CIDR,...", "", "clients of these networks are reset, also if allowed; may be repeated", func(t *Text) *[]Value { return &t.Deny }),
		once(common, "wake-on", Word, "WHAT", DefaultWakeOn, "what starts the child: connect, or data = the client's first byte, before which it is not connected (not for servers that speak first: MySQL, MariaDB, TiDB, SSH, SMTP, FTP)", func(t *Text) *Value { return &t.WakeOn }).of(string(WakeOnConnect), string(WakeOnData)),
		once(common, "wake-rate", Frequency, "N/DURATION", "", "how often one source network (/24, /64) may start the child; beyond it its clients wait", func(t *Text) *Value { return &t.WakeRate }),
		once(common, "quiet", Duration, "DURATION", "", "a connection that carried no byte for this long is quiet; see --quiet-policy", func(t *Text) *Value { return &t.Quiet }),
		once(common, "quiet-policy", Word, "POLICY", DefaultQuietPolicy, "a quiet connection: keep = keeps the child awake like any other, close = is ended, ignore = stays and does not keep the child awake", func(t *Text) *Value { return &t.QuietPolicy }).of(string(QuietKeep), string(QuietClose), string(QuietIgnore)),
		once(common, "max-waiting", Count, "N", "", "connections that wait for the child at once, the kernel's backlog holds the rest", func(t *Text) *Value { return &t.MaxWaiting }),
		once(common, "max-per-source", Count, "N", "", "connections of one address (IPv6: /64) at once, further ones are reset", func(t *Text) *Value { return &t.MaxPerSource }),
		once(common, "proxy-protocol", Word, "VERSION", "", "tell the child its client's address by a PROXY protocol header: v1 or v2", func(t *Text) *Value { return &t.ProxyProtocol }).of(string(ProxyV1), string(ProxyV2)),
		several(common, "accept-proxy-protocol", Networks, "CIDR,...", "", "believe, and require, a PROXY protocol header from these peers, and from nobody else; may be repeated", func(t *Text) *[]Value { return &t.AcceptProxyProtocol }),
		once(common, "path", Word, "PATH", DefaultPath, "how bytes get to the child: copy = tiproxy carries them, direct = the kernel leads clients to the child itself (Linux, root or CAP_BPF and CAP_NET_ADMIN), auto = direct where nothing speaks against it, inherit = the child is handed the socket itself (LISTEN_FDS) and --dest is left out", func(t *Text) *Value { return &t.BytePath }).of(string(PathCopy), string(PathDirect), string(PathAuto), string(PathInherit)),
	}
}

// fileSettings make sense only where there are several services.
func fileSettings() []Setting {
	return []Setting{
		once(inFile, "group", Plain, "NAME", "", "the group whose budget the service shares", func(t *Text) *Value { return &t.Group }),
		several(inFile, "uses", Pairs, "NAME: AMOUNT", "", "what the child takes of its group's amounts for as long as it runs, such as memory: 8GiB", func(t *Text) *[]Value { return &t.Uses }),
		several(inFile, "wake", Names, "[SERVICE...]", "", "services that are woken along with this one", func(t *Text) *[]Value { return &t.Wake }),
		several(inFile, "needs", Names, "[SERVICE...]", "", "services that are started first, in this order, and kept awake for as long as this one is", func(t *Text) *[]Value { return &t.Needs }),
		once(inFile, "logs", Plain, "WHERE", LogsOutput, "where the child's output goes: output = tiproxy's own, file:PATH = a file; a PATH that ends in / is a directory, the file there is SERVICE.log", func(t *Text) *Value { return &t.Logs }),
		once(inFile, "logs-size", Size, "SIZE", DefaultLogsSize, "such a file is rotated when it has grown to this size; 0 = never", func(t *Text) *Value { return &t.LogsSize }),
		once(inFile, "logs-keep", Number, "N", DefaultLogsKeep, "how many rotated files are kept beside it", func(t *Text) *Value { return &t.LogsKeep }),
		{Name: "children", Arg: "N", Kind: Count, scope: groupKey, Usage: "how many services of the group may be awake at once (default: any number)"},
		{Name: "wait", Arg: "DURATION", Kind: Duration, Default: DefaultGroupWait, scope: groupKey, Usage: "how long a client may wait for room in the group; 0 = as long as it takes"},
	}
}

// programSettings are about tiproxy itself.
func programSettings() []Setting {
	return []Setting{
		{Name: "admin", Arg: "ADDR", Kind: Address, scope: whole, Usage: "where tiproxy status and the other commands ask: unix:/path, for its own user and root only, or host:port, for who has the token; off = nowhere"},
		{Name: "admin-token-file", Arg: "FILE", scope: whole, Usage: "the file with the token for an --admin on TCP: one word of 16 characters or more"},
		Setting{Name: "log-format", Arg: "FORMAT", Default: "auto", scope: whole, Usage: "tiproxy's own log, on stderr: text, json, or auto = text on a terminal"}.of("auto", "text", "json"),
		Setting{Name: "log-level", Arg: "LEVEL", Default: "info", scope: whole, Usage: "debug, info, warn or error"}.of("debug", "info", "warn", "error"),
	}
}
