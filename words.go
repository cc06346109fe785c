package main

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"tiproxy/internal/admin"
)

// How times, states and numbers are written for people.

// lasting writes how long something has lasted: 12s, 3m12s, 2h05m, 3d4h.
func lasting(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Truncate(time.Second).Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

// ago writes how long something has lasted without a fraction.
func ago(d time.Duration) string {
	if d = max(d, 0); d < 10*time.Second {
		return fmt.Sprintf("%ds", int(d.Seconds()))
	}
	return lasting(d)
}

// moment writes when something was, or will be, as seen from now: 09:12,
// Mon 09:12, 2 Jan 09:12.
func moment(t, now time.Time) string {
	now = now.In(t.Location())
	const clock = "15:04"
	away := max(now.Sub(t), t.Sub(now))
	switch {
	case t.YearDay() == now.YearDay() && t.Year() == now.Year():
		return t.Format(clock)
	case away < 6*24*time.Hour:
		return t.Format("Mon " + clock)
	case away < 300*24*time.Hour:
		return t.Format("2 Jan " + clock)
	}
	return t.Format("2 Jan 2006 " + clock)
}

// asleep writes how much of the time nothing of the child existed, and since
// when that is counted.
func asleep(s admin.Service, now time.Time) string {
	total := s.Seconds.Total()
	if total <= 0 {
		return "-"
	}
	return fmt.Sprintf("%s since %s", percent(float64(s.Seconds.Closed/total)), moment(s.CountingSince, now))
}

// percent never says 0 or 100 of what is only near.
func percent(part float64) string {
	n := 100 * part
	switch {
	case n > 99 && n < 100:
		n = min(n, 99.9)
		return fmt.Sprintf("%.1f %%", n)
	case n > 0 && n < 1:
		return "<1 %"
	}
	return fmt.Sprintf("%.0f %%", n)
}

// size writes a number of bytes.
func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, i := float64(n)/1024, 0
	for value >= 1023.95 && i < len(units)-1 {
		value, i = value/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[i])
}

// Colours, as the terminal's own scheme has them: ECMA-48, 8.3.117.
const (
	yellow = "\x1b[33m"
	green  = "\x1b[32m"
	red    = "\x1b[31m"
	faint  = "\x1b[2m"
	bold   = "\x1b[1m"
	plain  = "\x1b[0m"
)

// paint writes text in a colour.
func paint(colour, text string) string {
	if colour == plain || text == "" {
		return text
	}
	return colour + text + plain
}

// stateColour is a state's.
func stateColour(state string) string {
	switch state {
	case admin.StateOpened:
		return green
	case admin.StateClosed:
		return faint
	}
	return yellow
}

// cell is one field of a table.
type cell struct {
	text   string
	colour string
}

// table writes rows with aligned columns. Colours take no room.
func table(rows [][]cell, coloured bool) string {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		pad := 0
		for i, c := range row {
			if c.text == "" {
				pad += widths[i] + 2
				continue
			}
			b.WriteString(strings.Repeat(" ", pad))
			text := oneLine(c.text)
			if coloured {
				text = paint(c.colour, text)
			}
			b.WriteString(text)
			pad = widths[i] - utf8.RuneCountInString(c.text) + 2
		}
		b.WriteByte('\n')
	}
	return b.String()
}
