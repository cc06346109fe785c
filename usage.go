package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tiproxy/internal/config"
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
		if s.Name == f.Name {
			return s.Arg
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

// commandNames are the commands that somebody may have meant by a leftover word.
var commandNames = []string{"run", "check", "status", "start", "stop", "hold", "release", "logs", "dashboard", "reload", "healthcheck", "demo", "completion", "help"}

// leftoverError is about words in front of "--" that belong to no flag.
func leftoverError(words []string) error {
	if words[0] == "-" {
		return errors.New(`leftover word "-": there is nothing to read from stdin, leave it out`)
	}
	if meant := closest(words[0], commandNames); meant != "" && len(words) == 1 {
		return fmt.Errorf("leftover word %q: did you mean tiproxy %s? If it is for the child, put -- in front of it", words[0], meant)
	}
	return fmt.Errorf("leftover word %q: if it is for the child, put -- in front of the child's arguments: -- %s", words[0], strings.Join(words, " "))
}

// closest returns the known name that was most likely meant, or "". Names of
// variables are compared as those of flags.
func closest(name string, known []string) string {
	plain := func(s string) string {
		return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(s, envPrefix), "_", "-"))
	}
	words := make([]string, len(known))
	for i, k := range known {
		words[i] = plain(k)
	}
	if i := slices.Index(words, config.Closest(plain(name), words)); i >= 0 {
		return known[i]
	}
	return ""
}
