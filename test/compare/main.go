//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// The exit status, from outside and from inside.
const (
	statusFine   = 0
	statusBroken = 1 // tiproxy does not keep a promise
	statusUnable = 2 // the harness could not do its work, or was called wrongly
)

func main() { os.Exit(run(os.Args[1:])) }

// run is one of three programs: the one that a person calls, the harness in
// namespaces of its own that it starts, and the servers that the harness starts.
func run(words []string) int {
	if len(words) > 0 && words[0] == "role" {
		return playRole(words[1:])
	}
	work := outside
	if len(words) > 1 && words[0] == "inside" {
		work, words = inside, words[1:]
	}
	code, err := work(words)
	if errors.Is(err, flag.ErrHelp) {
		return statusFine
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		return statusUnable
	}
	return code
}

// options are the words of the command line.
type options struct {
	out   string // the file to write, "" for none
	table string // a file that shows the table of that one, "" for none
	peers string // names, comma separated, "" for all
	rows  string // numbers, comma separated, "" for all
}

func parseOptions(words []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	flags.StringVar(&o.out, "out", "", "also write the page to this `file`")
	flags.StringVar(&o.table, "table", "", "with --out: also put its table into this `file`")
	flags.StringVar(&o.peers, "peers", "", "only these, comma separated")
	flags.StringVar(&o.rows, "rows", "", "only the faults with these numbers, comma separated")
	if err := flags.Parse(words); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected word %q", flags.Arg(0))
	}
	return o, nil
}

// outside builds tiproxy, runs the harness in its namespaces and keeps the page
// that it prints.
func outside(words []string) (int, error) {
	o, err := parseOptions(words)
	if err != nil {
		return statusUnable, err
	}
	if os.Geteuid() != 0 {
		return statusUnable, errors.New("needs root, for network and PID namespaces: run it as root, for example in a container")
	}
	dir, err := os.MkdirTemp("", "compare-")
	if err != nil {
		return statusUnable, err
	}
	defer os.RemoveAll(dir)
	// Some peers change their user and must still reach their files.
	if err := os.Chmod(dir, 0o755); err != nil {
		return statusUnable, err
	}
	if err := provideTiproxy(filepath.Join(dir, "tiproxy")); err != nil {
		return statusUnable, err
	}
	page, code, err := runInside(dir, words)
	if err != nil || code == statusUnable || o.out == "" {
		return code, err
	}
	if err := os.WriteFile(o.out, []byte(page), 0o644); err != nil || o.table == "" {
		return code, err
	}
	return code, putTable(o.table, page)
}

// runInside returns what the harness printed and its exit status.
func runInside(dir string, words []string) (page string, code int, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", statusUnable, err
	}
	// The parent-death signal follows the thread that forked (prctl(2)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var printed strings.Builder
	cmd := exec.Command(self, append([]string{"inside", dir}, words...)...)
	cmd.Stdout = io.MultiWriter(os.Stdout, &printed)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = namespaces()
	if err := cmd.Start(); err != nil {
		return "", statusUnable, fmt.Errorf("start the harness in namespaces of its own: %w", err)
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return printed.String(), exit.ExitCode(), nil
	}
	return printed.String(), statusFine, err
}

// provideTiproxy puts the build to be judged at path.
func provideTiproxy(path string) error {
	if given := os.Getenv("BIN_UNDER_TEST"); given != "" {
		program, err := os.ReadFile(given)
		if err != nil {
			return fmt.Errorf("BIN_UNDER_TEST: %w", err)
		}
		return os.WriteFile(path, program, 0o755)
	}
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module that tiproxy is built from: %w", err)
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, ".")
	build.Dir = strings.TrimSpace(string(root))
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build tiproxy: %w\n%s", err, out)
	}
	return nil
}
