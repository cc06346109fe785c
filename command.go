package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"tiproxy/internal/config"
)

// Set by the linker in release builds: -X main.version=… -X main.commit=….
var version, commit string

// execute runs the command line and returns the exit status.
func execute(args []string) int {
	own, child := splitArgs(args)
	running := false
	root := rootCommand(own, child)
	root.PersistentPreRun = func(*cobra.Command, []string) { running = true }
	root.SetArgs(own)
	err := root.Execute()
	if err != nil && !running {
		err = asUsage(err)
	}
	return report(os.Stderr, err)
}

// splitArgs cuts the command line at its first "--". The child's half never
// comes near a parser of ours, whatever its words look like. A request for
// shell completion is about a whole line and stays in one piece.
func splitArgs(args []string) (own, child []string) {
	i := slices.Index(args, "--")
	if i < 0 || args[0] == cobra.ShellCompRequestCmd || args[0] == cobra.ShellCompNoDescRequestCmd {
		return args, nil
	}
	return args[:i:i], args[i+1:]
}

func rootCommand(own, child []string) *cobra.Command {
	root := &cobra.Command{
		Use:           "tiproxy [flags] --dest ADDR --exec PROGRAM [-- ARG...]",
		Short:         "Start a server when its first client connects, stop it when idle",
		Args:          cobra.ArbitraryArgs, // leftover words get an answer of our own
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, words []string) error {
			if show, _ := cmd.Flags().GetBool("version"); show {
				fmt.Fprintln(cmd.OutOrStdout(), versionLine())
				return nil
			}
			o, err := readOptions(cmd.Flags(), words, child)
			if err != nil {
				return err
			}
			return run(o)
		},
	}
	addFlags(root.Flags())
	root.Flags().Bool("version", false, "print version, commit and Go version")
	root.Flags().BoolP("help", "h", false, "print this help")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return flagError(cmd, own, err) })
	root.SetHelpFunc(helpFunc(root.HelpFunc()))
	addCompletions(root)
	root.AddCommand(runCommand(child), checkCommand(child), demoCommand(child), demoServerCommand(), healthcheckCommand(child), statusCommand(child), logsCommand(child), dashboardCommand(child))
	root.AddCommand(verbCommands(child)...)
	return root
}

// addCompletions tells shells what may follow a flag.
func addCompletions(root *cobra.Command) {
	fixed := func(words ...string) cobra.CompletionFunc {
		return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
	}
	for name, complete := range map[string]cobra.CompletionFunc{
		"ready":       completeReady,
		"stop-signal": fixed(config.SignalNames()...),
		"log-format":  fixed("auto", "text", "json"),
		"log-level":   fixed("debug", "info", "warn", "error"),

		"wake-on":        fixed(string(config.WakeOnConnect), string(config.WakeOnData)),
		"path":           fixed(string(config.PathCopy), string(config.PathDirect), string(config.PathAuto), string(config.PathInherit)),
		"quiet-policy":   fixed(string(config.QuietKeep), string(config.QuietClose), string(config.QuietIgnore)),
		"proxy-protocol": fixed(string(config.ProxyV1), string(config.ProxyV2)),
	} {
		if err := root.RegisterFlagCompletionFunc(name, complete); err != nil {
			panic(err) // a name above that is no flag
		}
	}
	if err := root.MarkFlagDirname("workdir"); err != nil {
		panic(err)
	}
}

// completeReady offers the kinds of readiness. Behind those that go on, no blank
// is put.
func completeReady(_ *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var words []cobra.Completion
	directive := cobra.ShellCompDirectiveNoFileComp
	for _, w := range []string{config.ReadyListen, config.ReadyDial, config.ReadyHTTP, config.ReadyExec, config.ReadyLog, config.ReadyNotify} {
		if !strings.HasPrefix(w, begun) {
			continue
		}
		words = append(words, w)
		if strings.HasSuffix(w, ":") || strings.HasSuffix(w, "/") {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
	}
	return words, directive
}

// versionLine says what this binary is.
func versionLine() string {
	v, c := built()
	return fmt.Sprintf("tiproxy %s, commit %s, %s %s/%s", v, c, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// built is the version and the commit of this binary. Builds from a checkout
// without the linker's word fall back on what Go stamped into the binary.
func built() (v, c string) {
	v, c = version, commit
	info, ok := debug.ReadBuildInfo()
	if ok && v == "" {
		v = info.Main.Version
	}
	if ok && c == "" {
		c = vcsCommit(info)
	}
	if v == "" || v == "(devel)" {
		v = "dev"
	}
	if c == "" {
		c = "unknown"
	}
	return v, c
}

func vcsCommit(info *debug.BuildInfo) string {
	var revision, dirty string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if revision == "" {
		return ""
	}
	return revision + dirty
}

// helpFunc shows our own help for the main command and cobra's for the others.
func helpFunc(others func(*cobra.Command, []string)) func(*cobra.Command, []string) {
	return func(cmd *cobra.Command, args []string) {
		if cmd.HasParent() {
			others(cmd, args)
			return
		}
		fmt.Fprint(cmd.OutOrStdout(), helpText())
	}
}

// helpText is the help of the main command: what to type first, then the rest.
func helpText() string {
	var b strings.Builder
	b.WriteString(`tiproxy starts a server when its first client connects, and stops it when
nobody has been connected for a while. Any TCP server, unchanged.

Examples:
  # a server that sleeps; then: curl http://127.0.0.1:4000
  tiproxy --dest 127.0.0.1:3000 --exec ncat --workdir /usr/sbin -- -l -k -p 3000 -4 -v

  # a chat that sleeps; then, in several terminals: nc 127.0.0.1 4000
  tiproxy --dest 127.0.0.1:3000 --exec ncat --workdir /usr/sbin -- -l -k -p 3000 -4 -v --broker

  # see it work, with nothing to install
  tiproxy demo

  # several servers that sleep, from a file
  tiproxy run --config tiproxy.yaml

Usage:
  tiproxy [flags] --dest ADDR --exec PROGRAM [-- ARG...]
  tiproxy run | check [--config FILE]     (default: /etc/tiproxy/tiproxy.yaml)
  tiproxy status [NAME] [--watch] | start NAME | stop NAME | hold NAME TIME
          | release NAME | logs [-f] NAME | dashboard | reload | healthcheck
  tiproxy demo | completion SHELL

Everything behind -- is the child's argument list, byte for byte.
`)
	for _, g := range helpGroups() {
		group(&b, g.title, g.names...)
	}
	b.WriteString(`  --version                   print version, commit and Go version
  --help, -h                  print this help

Environment:
  Every flag is also a variable: TIPROXY_ and its name in capitals, - as _, such
  as TIPROXY_START_TIMEOUT=5m. Flags win. What may be repeated takes
  one a line there.

Signals:
  TERM, INT, HUP   stop: let connections finish, stop the child; twice: at once
                   (tiproxy run: HUP does not stop)
  USR1             log the statistics

Exit status:
  0   stopped because it was asked to
  1   cannot go on: address in use …
  2   wrong command line
`)
	return b.String()
}

// helpGroup is some settings under a title of the help.
type helpGroup struct {
	title string
	names []string
}

// helpGroups lists all settings: first the few that everyone needs, behind them
// the controls for a hostile or careless world.
func helpGroups() []helpGroup {
	return []helpGroup{
		{"What everyone needs (a DURATION is 250ms, 30s, 1h30m ...)", []string{"bind", "dest", "exec", "workdir", "env", "idle"}},
		{"Starting and stopping", []string{"ready", "start-timeout", "stop-timeout", "stop-signal", "drain-timeout", "min-uptime"}},
		{"Control: what the child may do", []string{"user"}},
		{"Control: who may connect, and who may wake the child", []string{"allow", "deny", "wake-on", "wake-rate"}},
		{"Control: connections that are open and quiet", []string{"quiet", "quiet-policy"}},
		{"Control: how many at once", []string{"max-connections", "max-waiting", "max-per-source"}},
		{"Control: whose address the child sees", []string{"proxy-protocol", "accept-proxy-protocol"}},
		{"tiproxy itself", []string{"path", "admin", "admin-token-file", "log-format", "log-level"}},
	}
}

// group writes some settings under a title.
func group(b *strings.Builder, title string, names ...string) {
	fmt.Fprintf(b, "\n%s:\n", title)
	for _, s := range settings() {
		if !slices.Contains(names, s.Name) {
			continue
		}
		usage := s.Usage
		if s.Default != "" {
			usage += " (default: " + s.Default + ")"
		}
		lines := wrap(usage, 80-30)
		flag := s.Name + " " + s.Arg
		if len(flag) > 25 {
			fmt.Fprintf(b, "  --%s\n", flag)
		} else {
			fmt.Fprintf(b, "  --%-25s %s\n", flag, lines[0])
			lines = lines[1:]
		}
		for _, line := range lines {
			fmt.Fprintf(b, "%30s%s\n", "", line)
		}
	}
}

// wrap breaks text into lines of at most width bytes.
func wrap(text string, width int) []string {
	lines := []string{""}
	for word := range strings.FieldsSeq(text) {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = word
		case len(*last)+1+len(word) <= width:
			*last += " " + word
		default:
			lines = append(lines, word)
		}
	}
	return lines
}
