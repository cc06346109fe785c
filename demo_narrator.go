package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// narrator is a slog.Handler that tells the events of the log in plain words,
// for somebody who watches.
type narrator struct {
	out    io.Writer
	colour bool
	moved  string        // said once when the usual port was taken
	idle   time.Duration // the idle time
	start  time.Time     // of the demo

	mu sync.Mutex
	// The fields below are guarded by mu.
	stopAt time.Time     // when the stop of the server began; zero if it ended by itself
	ran    time.Duration // how long servers have run
	starts int
	served int
	ending bool // tiproxy stops
}

// Enabled lets everything through: connections are debug messages.
func (n *narrator) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs and WithGroup make the narrator a slog.Handler. It has no use for
// either.
func (n *narrator) WithAttrs([]slog.Attr) slog.Handler { return n }

// WithGroup returns the narrator itself.
func (n *narrator) WithGroup(string) slog.Handler { return n }

// Handle tells one event.
func (n *narrator) Handle(_ context.Context, r slog.Record) error {
	facts := map[string]slog.Value{}
	r.Attrs(func(a slog.Attr) bool {
		facts[a.Key] = a.Value
		return true
	})
	n.mu.Lock()
	text := n.tellLocked(r, facts)
	n.mu.Unlock()
	if text == "" {
		return nil
	}
	_, err := io.WriteString(n.out, text)
	return err
}

// tellLocked returns what to print for an event.
func (n *narrator) tellLocked(r slog.Record, facts map[string]slog.Value) string {
	switch r.Message {
	case msgListening:
		return n.intro(facts["bind"].String())
	case msgStarting:
		n.starts++
		return n.line(r, yellow, "starting", "a client came (%v); no server runs, so it is held while one starts", facts["client"])
	case msgOpened:
		n.stopAt = time.Time{}
		return n.line(r, green, "ready", "after %v, %v of them a pretended warm-up; the client is let through", span(facts["took"]), demoWarmUp)
	case "connection":
		n.served++
		return n.line(r, green, "served", "%v: %v bytes in %v", facts["client"], facts["down"], span(facts["took"]))
	case msgShutdown:
		n.stopAt = r.Time
		if facts["reason"].String() != "idle" {
			return ""
		}
		return n.line(r, yellow, "idle", "nobody was connected for %v: stopping the server", n.idle)
	case msgClosed:
		return n.closedLocked(r, facts)
	case msgStopping:
		n.ending = true
		return n.line(r, yellow, "stopping", "tiproxy was told to stop; once more ends it at once")
	case msgStopped:
		return n.summaryLocked(r)
	case msgStatistics, "command":
		return ""
	}
	if r.Level < slog.LevelInfo {
		return ""
	}
	return n.line(r, bold, "note", "%s", words(r, facts))
}

// intro is what to try.
func (n *narrator) intro(bind string) string {
	url := "http://" + bind
	moved := ""
	if n.moved != "" {
		moved = "\n" + n.moved + "\n"
	}
	try := "curl " + url
	if path, ok := strings.CutPrefix(bind, "unix:"); ok {
		try = "curl --unix-socket " + path + " http://demo/"
	}
	return fmt.Sprintf(`
tiproxy demo: a web server that sleeps until somebody needs it
%s
tiproxy listens on %s. No server runs behind it yet.
In another terminal, or with a browser, try:

    %s

Then wait %v without a client. Ctrl-C ends the demo.

`, moved, bind, n.paint(bold, try), n.idle)
}

func (n *narrator) closedLocked(r slog.Record, facts map[string]slog.Value) string {
	how := "by itself"
	if !n.stopAt.IsZero() {
		how = fmt.Sprintf("the stop took %v", readable(r.Time.Sub(n.stopAt)))
	}
	uptime := facts["uptime"].Duration()
	n.ran += uptime
	word, next := "asleep", "; the next client starts it again"
	if n.ending {
		word, next = "gone", ""
	}
	return n.line(r, faint, word, "the server has ended after %v (%v, %s)%s", readable(uptime), facts["status"], how, next)
}

func (n *narrator) summaryLocked(r slog.Record) string {
	return n.line(r, faint, "stopped", "nothing is left running. The server ran %v of %v, for %s in %s",
		readable(n.ran), readable(r.Time.Sub(n.start)), count(n.served, "client"), count(n.starts, "start"))
}

// line is one line of the story: when, what, and the rest.
func (n *narrator) line(r slog.Record, colour, word, format string, args ...any) string {
	at := fmt.Sprintf("%6.1f s", r.Time.Sub(n.start).Seconds())
	return fmt.Sprintf("%s  %s  %s\n", n.paint(faint, at), n.paint(colour, fmt.Sprintf("%-8s", word)), fmt.Sprintf(format, args...))
}

func (n *narrator) paint(colour, text string) string {
	if !n.colour {
		return text
	}
	return paint(colour, text)
}

// span is a duration among the facts, rounded for people.
func span(v slog.Value) time.Duration {
	if v.Kind() != slog.KindDuration {
		return 0
	}
	return readable(v.Duration())
}

// words is a message the story has no line of its own for.
func words(r slog.Record, facts map[string]slog.Value) string {
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, ", %s: %v", a.Key, facts[a.Key])
		return true
	})
	return oneLine(b.String())
}

// count writes "1 client", "2 clients".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
