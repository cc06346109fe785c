//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// verdict is what a cell saw: whether that is right, and in a few words what it was.
type verdict struct {
	ok   bool
	text string
}

func okay(format string, args ...any) verdict { return verdict{true, fmt.Sprintf(format, args...)} }
func bad(format string, args ...any) verdict  { return verdict{false, fmt.Sprintf(format, args...)} }

// promise says whether a cell of tiproxy has to be right.
type promise int

const (
	kept    promise = iota // it is a promise
	claimed                // it is one in builds that have the option
	none                   // tiproxy promises nothing of the kind
)

// fault is a row.
type fault struct {
	number  int // in the catalogue of faults
	name    string
	promise promise
	only    func(traits) bool // whom it applies to; nil: everybody
	measure bool              // a number to compare: right and wrong would be arbitrary for others than tiproxy
	try     func(context.Context, *stand) (verdict, error)
}

// faults are the rows, in the order of what they are about.
var faults = []fault{
	{number: 25, name: "client half-closes, answer comes 1 s later", try: lateAnswer},
	{number: 25, name: "50 MB after the other side's end, both directions", try: bulkAfterEnd},
	{number: 26, name: "20 half-closed clients are reset: nothing stays", try: halfClosedPile},
	{number: 27, name: "server resets: not a clean end for the client", try: serverResets},
	{number: 27, name: "client resets: not a clean end for the server", try: clientResets},
	{number: 28, name: "server ends its direction while the client sends: 4 MB answer", try: endUnderInput},
	{number: 28, name: "server process ends after its answer: 4 MB, slow client", try: lastWords},
	{number: 29, name: "20 stuck connections: others served, memory bounded", try: slowReaders},
	{number: 30, name: "keepalive finds clients that vanished", try: keepalive},
	{number: 78, name: "120 rounds of two small messages each way", try: smallMessages},
	{number: 79, name: "urgent data", try: urgentData},
	{number: 80, name: "IPv4 and IPv6 clients, IPv6 server", try: bothVersions},
	{number: 85, name: "server learns the client's address", promise: claimed, try: source},
	{number: 86, name: "forged PROXY header", try: forgedHeader},

	{number: 66, name: "300 descriptors, 400 clients: CPU, log, recovery", only: sharesDescriptors, try: outOfDescriptors},
	{number: 69, name: "an idle connection's descriptors (67) and memory", measure: true, try: idleCost},
	{number: 70, name: "300 clients, no server to be had: told, log lines", try: noServer},
	{number: 74, name: "200 clients in one instant", try: burst},
	{number: 76, name: "10,000 clients reset at once (6 s at most), then an honest one", try: resetStorm},
	{number: 82, name: "one address takes every connection, another comes", promise: claimed, try: hoarder},

	{number: 15, name: "empty connections that the server sees", try: probes},
	{number: 18, name: "a stranger sits on the server's port", try: squatter},
	{number: 20, name: "client comes while the server is down for 1.5 s", try: serverAway},
	{number: 21, name: "server is stopped (SIGSTOP) for 1.5 s", try: serverStopped},
	{number: 36, name: "server is killed under 10 clients", try: serverKilled},
	{number: 42, name: "idle: server stopped, with a grandchild of another session", only: startsServer, try: idleStop},
	{number: 48, name: "client comes while the server is being stopped", only: startsServer, try: clientDuringStop},
	{number: 56, name: "asked to stop during an answer of 2 s", try: drain},
	{number: 60, name: "SIGKILL: what stays, and can it start anew", try: suddenDeath},
	{number: 106, name: "new configuration, 5 times, under clients: refused, cut", promise: none, try: takeover},
}

func startsServer(t traits) bool { return t.starts }

// sharesDescriptors leaves out who has a process, and with it a limit, for each
// connection.
func sharesDescriptors(t traits) bool { return !t.forks }

// numbered are the faults with these numbers, or all.
func numbered(numbers string) ([]fault, error) {
	if numbers == "" {
		return faults, nil
	}
	var some []fault
	for word := range strings.SplitSeq(numbers, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || !slices.ContainsFunc(faults, func(f fault) bool { return f.number == n }) {
			return nil, fmt.Errorf("no row has the number %q", word)
		}
		for _, f := range faults {
			if f.number == n {
				some = append(some, f)
			}
		}
	}
	return some, nil
}

// count is a number of things.
func count(thing string, n int) string {
	switch {
	case n == 1:
		return "1 " + thing
	case strings.HasSuffix(thing, "s"):
		return fmt.Sprintf("%d %ses", n, thing)
	default:
		return fmt.Sprintf("%d %ss", n, thing)
	}
}

// short is a duration in two significant digits.
func short(d time.Duration) string {
	switch {
	case d >= 2*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	case d >= 10*time.Second:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	default:
		return fmt.Sprintf("%d µs", d.Microseconds())
	}
}
