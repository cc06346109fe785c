package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tiproxy/internal/admin"
)

// statusCommand shows how the services are.
func statusCommand(child []string) *cobra.Command {
	var watch, asJSON bool
	cmd := &cobra.Command{
		Use: "status [NAME]", Short: "Show how the services of a running tiproxy are",
		Long:    "Shows how the services of a running tiproxy are, or one of them in detail. Asking\nneither wakes a child nor keeps one awake. Counts and spans begin when tiproxy\nwas started.",
		Example: "  tiproxy status\n  tiproxy status --watch\n  tiproxy status db --json",
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again whenever something changes")
	cmd.Flags().BoolVar(&asJSON, "json", false, "JSON, as the API answers")
	return asking(child, cmd, -1, func(q question) error {
		v := &view{q: q, json: asJSON, terminal: onTerminal(os.Stdout)}
		v.coloured = v.terminal && colourWanted()
		if watch {
			return v.watch()
		}
		if err := v.ask(); err != nil {
			return err
		}
		_, err := io.WriteString(q.out, v.text(time.Now()))
		return err
	})
}

// view is what status shows.
type view struct {
	q                        question
	json, terminal, coloured bool
	drawn                    bool // something is on the terminal
	services                 []admin.Service
	asked                    time.Time // when services were right
}

// ask asks for everything that is shown.
func (v *view) ask() error {
	v.asked = time.Now()
	if len(v.q.words) == 0 {
		var err error
		v.services, err = v.q.services()
		return err
	}
	var one admin.Service
	if err := v.q.get(servicePath(v.q.words[0]), &one); err != nil {
		return err
	}
	v.services = []admin.Service{one}
	return nil
}

// text is what is shown at a moment.
func (v *view) text(now time.Time) string {
	switch {
	case v.json:
		return v.asJSON()
	case len(v.q.words) == 0:
		return statusTable(v.later(now), now, v.coloured)
	}
	return statusOf(v.later(now)[0], now, v.coloured)
}

// asJSON is what the API answers.
func (v *view) asJSON() string {
	var answer any = struct {
		Services []admin.Service `json:"services"`
	}{v.services}
	if len(v.q.words) > 0 {
		answer = v.services[0]
	}
	text, err := json.Marshal(answer)
	if err != nil {
		panic(err) // it was read from JSON
	}
	return string(text) + "\n"
}

// later are the services with spans that have grown since they were told.
func (v *view) later(now time.Time) []admin.Service {
	grown := admin.InSeconds(now.Sub(v.asked))
	out := make([]admin.Service, len(v.services))
	for i, s := range v.services {
		switch s.State {
		case admin.StateClosed:
			s.Seconds.Closed += grown
		case admin.StateStarting:
			s.Seconds.Starting += grown
		case admin.StateOpened:
			s.Seconds.Opened += grown
		case admin.StateShutdown:
			s.Seconds.Shutdown += grown
		}
		out[i] = s
	}
	return out
}

// statusTable is one line for each service.
func statusTable(all []admin.Service, now time.Time, coloured bool) string {
	if len(all) == 0 {
		return "no services\n"
	}
	var rows [][]cell
	var head []cell
	for _, title := range []string{"NAME", "STATE", "CONNECTIONS", "STARTS", "ASLEEP", "BIND", "PROGRAM", ""} {
		head = append(head, cell{title, faint})
	}
	rows = append(rows, head)
	for _, s := range all {
		notes, mark := notes(s, now)
		rows = append(rows, []cell{
			{s.Name, bold},
			{s.State + " for " + ago(now.Sub(s.Since)), stateColour(s.State)},
			{connectionsOf(s), plain}, {startsOf(s), plain}, {asleep(s, now), plain},
			{s.Bind, plain}, {s.Program, plain}, {notes, mark},
		})
	}
	return table(rows, coloured)
}

func connectionsOf(s admin.Service) string {
	text := fmt.Sprint(s.Connections)
	if s.Waiting > 0 {
		text += fmt.Sprintf(", %d waiting", s.Waiting)
	}
	if s.Resting > 0 {
		text += fmt.Sprintf(", %d resting", s.Resting)
	}
	return text
}

func startsOf(s admin.Service) string {
	if s.Failures == 0 {
		return fmt.Sprint(s.Starts)
	}
	return fmt.Sprintf("%d, %d failed", s.Starts, s.Failures)
}

// notes are what is worth saying beside the numbers, the worst first.
func notes(s admin.Service, now time.Time) (string, string) {
	var all []string
	mark := plain
	if s.Failed != "" {
		all, mark = append(all, "takes no clients: "+s.Failed), red
	}
	if failedLast(s) {
		all, mark = append(all, "failed: "+s.LastError.Error), red
	}
	if s.Draining != "" {
		all = append(all, "draining: "+s.Draining)
	}
	if !s.HeldUntil.IsZero() {
		all = append(all, "held until "+moment(s.HeldUntil, now))
	}
	if !s.IdleDeadline.IsZero() {
		all = append(all, "sleeps in "+ago(s.IdleDeadline.Sub(now)))
	}
	return strings.Join(all, ", "), mark
}

// failedLast reports whether the newest life failed: nothing has become ready
// since.
func failedLast(s admin.Service) bool {
	return s.LastError != nil && s.State != admin.StateOpened && !s.LastError.At.Before(lastOpened(s))
}

// lastOpened is when a child was last ready, zero if none was.
func lastOpened(s admin.Service) (at time.Time) {
	for _, c := range s.Timeline {
		if c.State == admin.StateOpened {
			at = c.At
		}
	}
	return at
}
