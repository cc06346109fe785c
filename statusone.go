package main

import (
	"fmt"
	"strings"
	"time"

	"tiproxy/internal/admin"
)

// How much of the past is shown of one service.
const (
	shownStarts  = 8
	shownChanges = 12
)

// statusOf is one service in detail.
func statusOf(s admin.Service, now time.Time, coloured bool) string {
	var rows [][]cell
	row := func(title, text string, colour string) {
		if text != "" {
			rows = append(rows, []cell{{title, faint}, {text, colour}})
		}
	}
	state := s.State + " for " + ago(now.Sub(s.Since))
	if s.PID != 0 {
		state += fmt.Sprintf(", pid %d", s.PID)
	}
	rows = append(rows, []cell{{s.Name, bold}, {state, stateColour(s.State)}})
	row("takes no clients", s.Failed, red)
	row("program", s.Program, plain)
	row("address", addressOf(s), plain)
	row("group", s.Group, plain)
	row("connections", fmt.Sprintf("%s, %d served", connectionsOf(s), s.Served), plain)
	row("bytes", fmt.Sprintf("%s to the child, %s from it", size(s.BytesUp), size(s.BytesDown)), plain)
	row("asleep", asleep(s, now), plain)
	row("starts", startsOf(s)+lastStarts(s), plain)
	row("draining", s.Draining, yellow)
	if !s.HeldUntil.IsZero() {
		row("held", fmt.Sprintf("until %s, for %s more", moment(s.HeldUntil, now), lasting(s.HeldUntil.Sub(now))), plain)
	}
	if !s.IdleDeadline.IsZero() {
		row("sleeps", "in "+ago(s.IdleDeadline.Sub(now))+" if nobody comes", plain)
	}
	rows = append(rows, failureRows(s, now)...)
	for i, c := range tail(s.Timeline, shownChanges) {
		title := ""
		if i == 0 {
			title = "history"
		}
		rows = append(rows, []cell{{title, faint}, {changeOf(c, now), plain}})
	}
	return table(rows, coloured)
}

func addressOf(s admin.Service) string {
	if s.Dest == "" {
		return s.Bind + ", which the child inherits"
	}
	return fmt.Sprintf("%s to %s, %s path", s.Bind, s.Dest, s.Path)
}

// lastStarts are how long the newest starts took.
func lastStarts(s admin.Service) string {
	var took []string
	for _, c := range tail(s.ColdStarts, shownStarts) {
		text := readable(c.Took.Duration()).String()
		if !c.OK {
			text += " (failed)"
		}
		took = append(took, text)
	}
	if len(took) == 0 {
		return ""
	}
	return "; they took " + strings.Join(took, ", ")
}

// failureRows are the newest failure, and what the child printed then.
func failureRows(s admin.Service, now time.Time) (rows [][]cell) {
	f := s.LastError
	if f == nil {
		return nil
	}
	mark := plain
	if failedLast(s) {
		mark = red
	}
	text := f.Error
	if !f.At.IsZero() {
		text = moment(f.At, now) + ": " + text
	}
	rows = append(rows, []cell{{"last failure", faint}, {text, mark}})
	for _, line := range f.Lines {
		rows = append(rows, []cell{{"", plain}, {"| " + line, plain}})
	}
	if f.Hint != "" {
		rows = append(rows, []cell{{"", plain}, {"hint: " + f.Hint, plain}})
	}
	return rows
}

func changeOf(c admin.Change, now time.Time) string {
	text := fmt.Sprintf("%s:%02d %s", moment(c.At, now), c.At.Second(), c.State)
	switch {
	case c.Who != "":
		text += ", woken by " + c.Who
	case c.Reason != "":
		text += ", " + c.Reason
	}
	return text
}

// tail is the last few of a list.
func tail[T any](list []T, most int) []T { return list[max(0, len(list)-most):] }
