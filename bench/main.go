//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	statusFine   = 0
	statusUnable = 1 // something could not be measured
	statusUsage  = 2
)

// wholeTime bounds a run for each round of it, however badly the rounds go.
const wholeTime = 5 * time.Minute

func main() { os.Exit(run(os.Args[1:], os.Stdout)) }

// run is one of two programs: the one that a person calls, and the roles that
// it starts: see play.
func run(words []string, out io.Writer) int {
	if len(words) > 0 && words[0] == "role" {
		return play(words[1:])
	}
	o, err := parseOptions(words)
	if errors.Is(err, flag.ErrHelp) {
		return statusFine
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return statusUsage
	}
	if err := o.work(out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return statusUnable
	}
	return statusFine
}

// options are the words of the command line.
type options struct {
	tiproxy string        // the build to be measured
	docs    string        // the directory whose page is to show the results, "" for none
	peers   string        // the first words of names, comma separated, "" for all
	paths   string        // tiproxy's ways to carry bytes, comma separated
	rounds  int           // of everything but starts and idle connections
	time    time.Duration // of one measurement
	idle    int           // connections
	starts  int           // of a child, for each of its delays
}

func parseOptions(words []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.tiproxy, "tiproxy", "./tiproxy", "the `file` to be measured")
	flags.StringVar(&o.docs, "docs", "", "write the results into performance.md of this `directory`, with picture and JSON beside it")
	flags.StringVar(&o.peers, "peers", "", "measure only these beside tiproxy: first `words` of their names, comma separated")
	flags.StringVar(&o.paths, "paths", "copy,direct", "tiproxy's `paths` to be measured, as far as it has them")
	flags.IntVar(&o.rounds, "rounds", 5, "how often everything is measured")
	flags.DurationVar(&o.time, "time", 800*time.Millisecond, "how long each measurement takes")
	flags.IntVar(&o.idle, "idle", 2000, "how many idle connections are held")
	flags.IntVar(&o.starts, "starts", 200, "how many cold starts there are for each kind of child")
	if err := flags.Parse(words); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected word %q", flags.Arg(0))
	case o.rounds < 1, o.idle < 1, o.starts < 1, o.time <= 0:
		return o, errors.New("numbers and times must be more than 0")
	}
	path, err := filepath.Abs(o.tiproxy)
	o.tiproxy = path
	return o, err
}

// work measures, and shows what came out.
func (o options) work(out io.Writer) error {
	if o.docs != "" {
		if err := checkPage(o.docs); err != nil {
			return err // before minutes are spent
		}
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	ctx, cancelTime := context.WithTimeout(ctx, time.Duration(o.rounds+2)*wholeTime)
	defer cancelTime()
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// nginx's workers change their user and must still reach their files.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	b, err := newBench(o, dir)
	if err != nil {
		return err
	}
	if err := b.measure(ctx); err != nil {
		return err
	}
	page := b.results.page()
	if _, err := io.WriteString(out, page); err != nil || o.docs == "" {
		return err
	}
	return b.results.write(o.docs, page)
}

// has reports whether a comma separated list holds word; an empty one holds all.
func has(list, word string) bool {
	if list == "" {
		return true
	}
	for one := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(one, word) {
			return true
		}
	}
	return false
}
