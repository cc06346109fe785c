package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"tiproxy/internal/config"
)

// defaultConfig is where the configuration is looked for unless it is named.
const defaultConfig = "/etc/tiproxy/tiproxy.yaml"

// runCommand is tiproxy run: the services of a file.
func runCommand(child []string) *cobra.Command {
	return fileCommand(child, "run", "Run the services of a configuration file", func(cmd *cobra.Command, path string) error {
		o, err := readFile(path, takenPorts{})
		if err != nil {
			return err
		}
		return run(o)
	})
}

// checkCommand is tiproxy check: whether run would take the file.
func checkCommand(child []string) *cobra.Command {
	return fileCommand(child, "check", "Check a configuration file, exactly as run would, and start nothing", func(cmd *cobra.Command, path string) error {
		o, err := readFile(path, takenPorts{})
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s is right: %s\n", path, plural(len(o.services), "service"))
		return nil
	})
}

func fileCommand(child []string, use, short string, do func(*cobra.Command, string) error) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use: use + " [--config FILE]", Short: short,
		Args: cobra.ArbitraryArgs, SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, words []string) error {
			if len(words)+len(child) > 0 {
				return &usageError{fmt.Errorf("leftover words %q: tiproxy %s takes everything from its file, write --config FILE", append(words, child...), use)}
			}
			return do(cmd, path)
		},
	}
	cmd.Flags().StringVar(&path, "config", defaultConfig, "the configuration `FILE`")
	if err := cmd.MarkFlagFilename("config", "yaml", "yml"); err != nil {
		panic(err)
	}
	return cmd
}

// readFile turns a file into checked settings.
func readFile(path string, ports takenPorts) (options, error) {
	f, err := config.Load(path, config.Options{Variable: os.LookupEnv, Port: ports.of})
	if err != nil {
		return options{}, &usageError{err}
	}
	o := options{services: f.Services, groups: f.Groups, file: path, ports: ports}
	var errs []error
	o.admin, err = adminOf(f)
	errs = append(errs, split(err)...)
	o.format, err = parseLogFormat(orDefault(f.LogFormat, "auto"))
	errs = appendProblem(errs, f.LogFormat, err)
	o.level, err = parseLogLevel(orDefault(f.LogLevel, "info"))
	errs = appendProblem(errs, f.LogLevel, err)
	if len(errs) > 0 {
		return options{}, &usageError{errors.Join(errs...)}
	}
	return o, nil
}

// adminOf is where the services of a file are asked about: where the file says,
// else where TIPROXY_ADMIN does, which the commands that ask follow, too, else at
// the usual place.
func adminOf(f config.File) (adminPlace, error) {
	at, token := orVariable(f.Admin, "admin"), orVariable(f.AdminTokenFile, "admin-token-file")
	if !at.Given {
		return usualAdmin(), nil
	}
	return readAdmin(at, token, f.Services)
}

func orVariable(v config.Value, name string) config.Value {
	if text := os.Getenv(envName(name)); !v.Given && text != "" {
		return config.Value{From: envName(name), Text: text, Given: true}
	}
	return v
}

func orDefault(v config.Value, def string) string {
	if v.Given {
		return v.Text
	}
	return def
}

// takenPorts are the free ports that services were given in place of {port}, for
// as long as the program runs.
type takenPorts map[string]uint16

// of returns a port that was free a moment ago, that no other service has and that
// is not taken otherwise.
func (t takenPorts) of(service string, taken func(uint16) bool) (uint16, error) {
	if port, has := t[service]; has && !taken(port) {
		return port, nil
	}
	const tries = 100
	for range tries {
		port, err := portNow()
		if err != nil {
			return 0, err
		}
		if others := slices.Collect(maps.Values(t)); !taken(port) && !slices.Contains(others, port) {
			t[service] = port
			return port, nil
		}
	}
	return 0, fmt.Errorf("%d that the system offered are given away already", tries)
}

// portNow is one that can be listened on at this moment.
func portNow() (uint16, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port), nil
}

// keep forgets the ports of services that are none any more.
func (t takenPorts) keep(services []config.Service) {
	maps.DeleteFunc(t, func(name string, _ uint16) bool { return named(services, name) < 0 })
}

// plural writes a number of things.
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
