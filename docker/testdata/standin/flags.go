package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/BurntSushi/toml"
)

// flags are those of tidb-server that the Docker files use, and the settings
// of its configuration file that stand for them. A flag wins over the file.
type flags struct {
	Host    string `toml:"host"`
	Port    string `toml:"-"`
	PortNum int    `toml:"port"`
	Store   string `toml:"store"`
	Path    string `toml:"path"`
	Status  struct {
		Report bool   `toml:"report-status"`
		Host   string `toml:"status-host"`
		Port   int    `toml:"status-port"`
	} `toml:"status"`
}

// parseFlags reads the command line as tidb-server does. Unknown flags and
// unknown settings are errors, so that a slip in the Docker files is noticed.
func parseFlags(args []string) (flags, error) {
	f := flags{Host: "0.0.0.0", PortNum: 4000, Store: "unistore", Path: "/tmp/tidb"}
	f.Status.Report, f.Status.Host, f.Status.Port = true, "0.0.0.0", 10080
	set := flag.NewFlagSet("tidb-server", flag.ContinueOnError)
	file := set.String("config", "", "configuration file")
	given := map[string]*string{}
	for _, name := range []string{"host", "P", "store", "path", "socket", "log-file", "log-slow-query", "temp-dir"} {
		given[name] = set.String(name, "", "")
	}
	report := set.Bool("report-status", true, "serve /status")
	if err := set.Parse(args); err != nil {
		return f, err
	}
	if set.NArg() > 0 {
		return f, fmt.Errorf("leftover words: %q", set.Args())
	}
	if err := readFile(*file, &f); err != nil {
		return f, err
	}
	f.Port = fmt.Sprint(f.PortNum)
	into := map[string]*string{"host": &f.Host, "P": &f.Port, "store": &f.Store, "path": &f.Path}
	set.Visit(func(g *flag.Flag) {
		if to := into[g.Name]; to != nil {
			*to = *given[g.Name]
		}
		if g.Name == "report-status" {
			f.Status.Report = *report
		}
	})
	if f.Store != "unistore" && f.Store != "tikv" {
		return f, fmt.Errorf("unknown -store %q", f.Store)
	}
	return f, nil
}

func readFile(name string, f *flags) error {
	if name == "" {
		return nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	meta, err := toml.Decode(string(text), f)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var unknown []string
	for _, key := range meta.Undecoded() {
		unknown = append(unknown, key.String())
	}
	if len(unknown) > 0 {
		return errors.New(name + ": not known to the stand-in: " + strings.Join(unknown, ", "))
	}
	return nil
}
