package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit statuses.
const (
	exitStopped = 0 // after a stop that was asked for
	exitFailed  = 1 // cannot go on
	exitUsage   = 2 // wrong command line
)

// usageError is a wrong command line: one or more mistakes, joined.
type usageError struct{ error }

// Unwrap returns the mistakes.
func (e *usageError) Unwrap() error { return e.error }

// report writes err for people, one line per mistake, and returns the exit
// status.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitStopped
	}
	for _, e := range split(err) {
		fmt.Fprintf(w, "tiproxy: %s\n", oneLine(e.Error()))
	}
	var usage *usageError
	if !errors.As(err, &usage) {
		return exitFailed
	}
	fmt.Fprintln(w, "see tiproxy --help")
	return exitUsage
}

// split returns the errors that were joined into err.
func split(err error) []error {
	var usage *usageError
	if errors.As(err, &usage) {
		err = usage.error
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// oneLine keeps what somebody wrote from breaking our lines and from telling
// the terminal what to do: it writes what cannot be printed as Go does.
func oneLine(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		piece := s[:n]
		if !strconv.IsPrint(r) || r == utf8.RuneError && n == 1 {
			quoted := strconv.Quote(piece)
			piece = quoted[1 : len(quoted)-1]
		}
		b.WriteString(piece)
		s = s[n:]
	}
	return b.String()
}

// asUsage makes err a usageError if it is none.
func asUsage(err error) error {
	var usage *usageError
	if errors.As(err, &usage) {
		return err
	}
	return &usageError{err}
}

// flagError puts an error of pflag about the command line own into words that
// say what would be right.
func flagError(cmd *cobra.Command, own []string, err error) error {
	var unknown *pflag.NotExistError
	var noValue *pflag.ValueRequiredError
	var syntax *pflag.InvalidSyntaxError
	switch {
	case errors.As(err, &unknown) && cmd.HasParent():
		err = subcommandFlag(cmd, unknown.GetSpecifiedName())
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "":
		err = oneDashError(cmd.Flags(), oneDash(own, unknown.GetSpecifiedShortnames()))
	case errors.As(err, &unknown):
		err = unknownFlag(cmd.Flags(), "--"+unknown.GetSpecifiedName(), unknown.GetSpecifiedName())
	case errors.As(err, &noValue):
		err = fmt.Errorf("--%s needs a value: write --%s %s", noValue.GetFlag().Name, noValue.GetFlag().Name, valueName(noValue.GetFlag()))
	case errors.As(err, &syntax):
		err = fmt.Errorf("%q is not a flag: write for example --idle 30s", syntax.GetSpecifiedFlag())
	}
	return &usageError{err}
}

// subcommandFlag is about a flag that a subcommand does not have. If the main
// command has it, the subcommand's name was most likely a word for the child.
func subcommandFlag(cmd *cobra.Command, name string) error {
	if cmd.Root().Flags().Lookup(name) != nil {
		return fmt.Errorf("tiproxy %s has no flag --%s: if %q is for the child, put -- in front of it", cmd.Name(), name, cmd.Name())
	}
	return unknownFlag(cmd.Flags(), "--"+name, name)
}

// oneDash returns what was written behind the one dash. pflag gives away only
// the rest of it from the first letter on that it does not know.
func oneDash(own []string, rest string) string {
	for _, word := range own {
		if letters, ok := strings.CutPrefix(word, "-"); ok && strings.HasSuffix(letters, rest) {
			return letters
		}
	}
	return rest
}

// oneDashError is about -dest, which looks like single letters, and about -l,
// which most likely was meant for the child.
func oneDashError(flags *pflag.FlagSet, letters string) error {
	name, _, _ := strings.Cut(letters, "=")
	if flags.Lookup(name) != nil {
		return fmt.Errorf("-%s: flags have two dashes: write --%s", name, name)
	}
	if meant := closest(name, flagNames(flags)); meant != "" && len(name) > 2 {
		return fmt.Errorf("unknown flag -%s: did you mean --%s?", name, meant)
	}
	if flags.Lookup("exec") == nil {
		return fmt.Errorf("unknown flag -%s", name)
	}
	return fmt.Errorf("unknown flag -%s: if it is for the child, put -- in front of the child's arguments", name)
}

func unknownFlag(flags *pflag.FlagSet, written, name string) error {
	if meant := closest(name, flagNames(flags)); meant != "" {
		return fmt.Errorf("unknown flag %s: did you mean --%s?", written, meant)
	}
	if flags.Lookup("exec") == nil {
		return fmt.Errorf("unknown flag %s", written)
	}
	return fmt.Errorf("unknown flag %s: if it is for the child, put -- in front of the child's arguments", written)
}

func flagNames(flags *pflag.FlagSet) []string {
	var names []string
	flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

// valueName is the word that stands for a flag's value in the help.
func valueName(f *pflag.Flag) string {
	for _, s := range settings() {
		if s.name == f.Name {
			return s.arg
		}
	}
	return "VALUE"
}

// swallowedFlag finds a flag that was taken for the value of the flag before
// it, as in "--dest --exec ncat".
func swallowedFlag(flags *pflag.FlagSet) error {
	var errs []error
	flags.Visit(func(f *pflag.Flag) {
		texts := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			texts = list.GetSlice()
		}
		for _, text := range texts {
			word, _, _ := strings.Cut(text, "=")
			if name, ok := strings.CutPrefix(word, "--"); ok && flags.Lookup(name) != nil {
				errs = append(errs, fmt.Errorf("--%s needs a value, but %s comes behind it: write --%s %s", f.Name, word, f.Name, valueName(f)))
			}
		}
	})
	return errors.Join(errs...)
}

// leftoverError is about words in front of "--" that belong to no flag.
func leftoverError(words []string) error {
	if words[0] == "-" {
		return errors.New(`leftover word "-": there is nothing to read from stdin, leave it out`)
	}
	if meant := closest(words[0], []string{"demo", "completion", "help"}); meant != "" && len(words) == 1 {
		return fmt.Errorf("leftover word %q: did you mean tiproxy %s? If it is for the child, put -- in front of it", words[0], meant)
	}
	return fmt.Errorf("leftover word %q: if it is for the child, put -- in front of the child's arguments: -- %s", words[0], strings.Join(words, " "))
}

// synonyms are the words that other programs use for our flags.
var synonyms = map[string]string{
	"listen": "bind", "address": "bind", "addr": "bind", "port": "bind", "frontend": "bind",
	"target": "dest", "backend": "dest", "upstream": "dest", "destination": "dest", "connect": "dest",
	"command": "exec", "cmd": "exec", "program": "exec", "run": "exec",
	"cwd": "workdir", "dir": "workdir", "chdir": "workdir", "directory": "workdir",
	"environment": "env", "verbose": "log-level", "debug": "log-level", "signal": "stop-signal",
}

// closest returns the known name that was most likely meant, or "".
func closest(name string, known []string) string {
	prefix := ""
	if strings.HasPrefix(name, envPrefix) {
		prefix = envPrefix
	}
	bare := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", "-"))
	best, bestCost := "", 1+max(1, len(bare)/3)
	for _, k := range known {
		plain := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(k, prefix), "_", "-"))
		cost := distance(bare, plain)
		if synonyms[bare] == plain || len(bare) >= 3 && strings.HasPrefix(plain, bare) {
			cost = min(cost, 1)
		}
		if cost < bestCost && cost < len(plain) {
			best, bestCost = k, cost
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour to get from a to b.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			rows[i][j] = min(change, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
