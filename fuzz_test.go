package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// FuzzCommandLine reads command lines, their words parted by NUL as in
// /proc/PID/cmdline. Whatever the words: nothing panics, what is said is one
// printable line for each mistake, and what is behind "--" comes out byte for
// byte.
func FuzzCommandLine(f *testing.F) {
	for _, line := range wrongLines {
		f.Add(strings.Join(line.args, "\x00"))
	}
	for _, line := range [][]string{
		join(both, "--", "-l", "--", "demo", "", "a\nb\xff"),
		join(both, "--idle", "0", "--stop-signal=int", "--env", "A=1,2", "--log-format", "json"),
		join(both, "--allow", "10.0.0.0/8,::1", "--wake-rate", "5/1m", "--quiet", "5m", "--quiet-policy", "close"),
		join(someExec, "--dest", "unix:/run/x", "--proxy-protocol=v2", "--accept-proxy-protocol", "127.0.0.1"),
		{"--bind", "\x1b]0;x\a\u009b31m"}, {"-\u202e"}, {"help", "demo"}, {"--version"},
		{cobra.ShellCompRequestCmd, "--log-level", ""}, {cobra.ShellCompRequestCmd, "--", "-"}, {"completion", "bash"},
	} {
		f.Add(strings.Join(line, "\x00"))
	}
	resolver := net.DefaultResolver
	f.Cleanup(func() { net.DefaultResolver = resolver })
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: asksNobody} // names of /etc/hosts are known
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\x00")
		own, child := splitArgs(args)
		if i := slices.Index(args, "--"); i >= 0 && len(own) < len(args) && !slices.Equal(child, args[i+1:]) {
			t.Fatalf("%q became %q", args[i+1:], child)
		}
		o, read, err := parseLine(own, child)
		if read && err == nil && !slices.Equal(o.services[0].Args, child) {
			t.Errorf("%q became %q", child, o.services[0].Args)
		}
		if err != nil {
			saysWhatIsWrong(t, err)
		}
	})
}

// asksNobody keeps the names that a fuzzer thinks of from the name servers.
func asksNobody(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("no name servers here")
}

// parseLine does with a command line what execute does, but runs nothing. read
// is true if it came as far as the settings.
func parseLine(own, child []string) (o options, read bool, err error) {
	root := rootCommand(own, child)
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	root.SetArgs(own)
	root.RunE = func(cmd *cobra.Command, words []string) (err error) {
		if show, _ := cmd.Flags().GetBool("version"); show {
			return nil
		}
		read = true
		o, err = readOptions(cmd.Flags(), words, child)
		return err
	}
	for _, sub := range root.Commands() {
		sub.RunE = func(*cobra.Command, []string) error { return nil }
	}
	if err := root.Execute(); err != nil {
		return options{}, read, asUsage(err)
	}
	return o, read, nil
}

func saysWhatIsWrong(t *testing.T, err error) {
	t.Helper()
	var out bytes.Buffer
	if status := report(&out, err); status != exitUsage {
		t.Errorf("exit status %d", status)
	}
	mistakes := split(err)
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(mistakes) == 0 || len(lines) != len(mistakes)+1 {
		t.Errorf("%d lines for %d mistakes: %q", len(lines), len(mistakes), out.String())
	}
	for _, line := range lines {
		if strings.ContainsFunc(line, isUnprintable) || strings.TrimSpace(strings.TrimPrefix(line, "tiproxy:")) == "" {
			t.Errorf("%q is not fit for a terminal", line)
		}
	}
}

func isUnprintable(r rune) bool { return !strconv.IsPrint(r) }
