package config

// Setting is one setting of a service: a flag of the command line, a variable of
// the environment and a key of the configuration file, all of the same name.
type Setting struct {
	Name, Arg string
	Default   string // shown as default; "" = none, or one that depends on the machine
	Usage     string

	value func(*Text) *Value   // where it goes; nil for a list
	list  func(*Text) *[]Value // where it goes if it may be repeated
	role  role
}

// role says what a setting is to a configuration file.
type role uint8

const (
	common role = iota // may be a default for all services
	own                // is every service's own
)

// Repeats reports whether the setting may be given several times.
func (s Setting) Repeats() bool { return s.list != nil }

// Set takes what was written for a setting that may be given once.
func (s Setting) Set(t *Text, v Value) { *s.value(t) = v }

// SetAll takes all that was written for a setting that may be repeated.
func (s Setting) SetAll(t *Text, all []Value) { *s.list(t) = all }

// Settings lists them in the order of the help.
func Settings() []Setting {
	once := func(name, arg, def, usage string, to func(*Text) *Value) Setting {
		return Setting{Name: name, Arg: arg, Default: def, Usage: usage, value: to}
	}
	several := func(name, arg, def, usage string, to func(*Text) *[]Value) Setting {
		return Setting{Name: name, Arg: arg, Default: def, Usage: usage, list: to}
	}
	all := []Setting{
		once("bind", "ADDR", DefaultBind, "where clients connect: host:port, :port, [v6]:port or unix:/path; port 0 takes a free one", func(t *Text) *Value { return &t.Bind }),
		once("dest", "ADDR", "", "where the child listens: host:port or unix:/path (required but with --path inherit)", func(t *Text) *Value { return &t.Dest }),
		once("exec", "PROGRAM", "", "the child's program: a path, or a name looked up in PATH, then in --workdir (required)", func(t *Text) *Value { return &t.Exec }),
		once("workdir", "DIR", "", "the child's working directory (default: the current one)", func(t *Text) *Value { return &t.Workdir }),
		several("env", "KEY=VALUE", "", "added to the child's environment; may be repeated", func(t *Text) *[]Value { return &t.Env }),
		once("user", "USER[:GROUP]", "", "who the child runs as, with its groups: names or numbers (default: as tiproxy does)", func(t *Text) *Value { return &t.User }),
		once("idle", "DURATION", DefaultIdle, "stop the child when nobody has been connected for this long; 0 = never", func(t *Text) *Value { return &t.Idle }),
		once("start-timeout", "DURATION", DefaultStartTimeout, "give up a start that is not ready by then; 0 = never", func(t *Text) *Value { return &t.StartTimeout }),
		once("stop-timeout", "DURATION", DefaultStopTimeout, "from the stop signal to SIGKILL of the whole tree; 0 = SIGKILL at once", func(t *Text) *Value { return &t.StopTimeout }),
		once("stop-signal", "NAME", DefaultStopSignal, "first signal of a stop", func(t *Text) *Value { return &t.StopSignal }),
		once("drain-timeout", "DURATION", DefaultDrainTimeout, "how long connections may finish when tiproxy itself is stopped; 0 = no waiting", func(t *Text) *Value { return &t.DrainTimeout }),
		once("max-connections", "N", "", "connections held at once, the kernel's backlog holds the rest (default: 3/8 of the descriptor limit, at most 50,000)", func(t *Text) *Value { return &t.MaxConnections }),
		several("ready", "KIND", DefaultReady(), "how readiness is recognised: listen (the kernel's tables) or dial (a connection) and, beside it, http://HOST:PORT/PATH (answers 200-399), exec:COMMAND (ends with 0), log:REGEX (a line the child prints), notify (sd_notify's READY=1); may be repeated, all must hold", func(t *Text) *[]Value { return &t.Ready }),
		once("min-uptime", "DURATION", "", "a child that is ready is not stopped for being idle before this time", func(t *Text) *Value { return &t.MinUptime }),
		several("allow", "CIDR,...", "", "only clients of these networks may connect, the others are reset; may be repeated", func(t *Text) *[]Value { return &t.Allow }),
		several("deny", "CIDR,...", "", "clients of these networks are reset, also if allowed; may be repeated", func(t *Text) *[]Value { return &t.Deny }),
		once("wake-on", "WHAT", DefaultWakeOn, "what starts the child: connect, or data = the client's first byte, before which it is not connected (not for servers that speak first: MySQL, MariaDB, TiDB, SSH, SMTP, FTP)", func(t *Text) *Value { return &t.WakeOn }),
		once("wake-rate", "N/DURATION", "", "how often one source network (/24, /64) may start the child; beyond it its clients wait", func(t *Text) *Value { return &t.WakeRate }),
		once("quiet", "DURATION", "", "a connection that carried no byte for this long is quiet; see --quiet-policy", func(t *Text) *Value { return &t.Quiet }),
		once("quiet-policy", "POLICY", DefaultQuietPolicy, "a quiet connection: keep = keeps the child awake like any other, close = is ended, ignore = stays and does not keep the child awake", func(t *Text) *Value { return &t.QuietPolicy }),
		once("max-waiting", "N", "", "connections that wait for the child at once, the kernel's backlog holds the rest", func(t *Text) *Value { return &t.MaxWaiting }),
		once("max-per-source", "N", "", "connections of one address (IPv6: /64) at once, further ones are reset", func(t *Text) *Value { return &t.MaxPerSource }),
		once("proxy-protocol", "VERSION", "", "tell the child its client's address by a PROXY protocol header: v1 or v2", func(t *Text) *Value { return &t.ProxyProtocol }),
		several("accept-proxy-protocol", "CIDR,...", "", "believe, and require, a PROXY protocol header from these peers, and from nobody else; may be repeated", func(t *Text) *[]Value { return &t.AcceptProxyProtocol }),
		once("path", "PATH", DefaultPath, "how bytes get to the child: copy = tiproxy carries them, direct = the kernel leads clients to the child itself (Linux, root or CAP_BPF and CAP_NET_ADMIN), auto = direct where nothing speaks against it, inherit = the child is handed the socket itself (LISTEN_FDS) and --dest is left out", func(t *Text) *Value { return &t.BytePath }),
	}
	for i, s := range all {
		switch s.Name {
		case "bind", "dest", "exec":
			all[i].role = own
		}
	}
	return all
}
