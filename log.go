package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// logFormat is how tiproxy's own log looks.
type logFormat string

// The formats. logAuto is text on a terminal and JSON elsewhere.
const (
	logAuto logFormat = "auto"
	logText logFormat = "text"
	logJSON logFormat = "json"
)

func parseLogFormat(s string) (logFormat, error) {
	switch f := logFormat(strings.ToLower(s)); f {
	case logAuto, logText, logJSON:
		return f, nil
	}
	return "", fmt.Errorf("%q is not known: write auto, text or json", s)
}

func parseLogLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%q is not known: write debug, info, warn or error", s)
}

// newLogger returns the program's logger. terminal says whether w leads to
// one: people get short times and colours, programs get whole ones.
func newLogger(w io.Writer, format logFormat, level slog.Level, terminal bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: readableDurations}
	switch {
	case format == logJSON, format == logAuto && !terminal:
		return slog.New(slog.NewJSONHandler(w, o))
	case !terminal:
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(tint.NewTextHandler(w, &tint.Options{
		Level: level, ReplaceAttr: readableDurations, TimeFormat: "15:04:05.000", NoColor: !colourWanted(),
	}))
}

// readableDurations writes a duration as people do: 12.3ms, not 12345678.
func readableDurations(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(readable(a.Value.Duration()).String())
	}
	return a
}

// readable rounds d to three digits, or to whole seconds from 100 s on.
func readable(d time.Duration) time.Duration {
	unit := time.Second
	for unit > 1 && d.Abs() < 100*unit {
		unit /= 10
	}
	return d.Round(unit)
}

// onTerminal reports whether the file leads to a terminal.
func onTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// colourWanted follows no-color.org and the oldest convention there is.
func colourWanted() bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
