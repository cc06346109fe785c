package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"tiproxy/internal/admin"
)

// redrawTime is how often what is on a terminal is written anew: spans grow.
const redrawTime = time.Second

// crowdTime is how long more events are waited for behind one, so that a crowd
// of them is shown once.
const crowdTime = 50 * time.Millisecond

// watch shows the services whenever something changes, until tiproxy ends.
func (v *view) watch() error {
	for {
		err := v.follow()
		if !errors.Is(err, admin.ErrBehind) {
			return err
		}
	}
}

// follow shows what one stream of events tells.
func (v *view) follow() error {
	ctx, cancel := context.WithCancel(v.q.ctx)
	stream, err := v.q.client.Stream(ctx, "/api/v1/events?history=0", "")
	if err != nil {
		cancel()
		return v.q.told(err)
	}
	events := make(chan admin.Event)
	ended := make(chan error, 1)
	go hear(ctx, stream, events, ended)
	defer func() {
		cancel()
		stream.Close()
		for range events { // until hear has ended
		}
	}()
	if err := v.ask(); err != nil {
		return err
	}
	return v.redraw(events, ended)
}

// hear hands events on until the stream ends or ctx is done.
func hear(ctx context.Context, s *admin.Stream, events chan<- admin.Event, ended chan<- error) {
	defer close(events)
	for {
		var ev admin.Event
		m, err := s.Next()
		if err == nil {
			err = json.Unmarshal(m.Data, &ev)
		}
		if err == nil && ev.Kind == admin.KindDropped {
			err = admin.ErrBehind
		}
		if err != nil {
			ended <- err
			return
		}
		select {
		case events <- ev:
		case <-ctx.Done():
			ended <- ctx.Err()
			return
		}
	}
}

// redraw shows the services, now and whenever an event has changed them.
func (v *view) redraw(events <-chan admin.Event, ended <-chan error) error {
	clock := v.clock()
	defer clock.Stop()
	for {
		if err := v.draw(); err != nil {
			return err
		}
		changed := false
		for !changed {
			select {
			case ev, ok := <-events:
				if !ok {
					return v.over(<-ended)
				}
				var err error
				if changed, err = v.take(ev, events); err != nil {
					return err
				}
			case <-clock.C:
				changed = true
			}
		}
	}
}

// clock ticks where what is shown grows old.
func (v *view) clock() *time.Ticker {
	t := time.NewTicker(redrawTime)
	if !v.terminal || v.json {
		t.Stop()
	}
	return t
}

// over puts the end of a stream into words.
func (v *view) over(err error) error {
	if errors.Is(err, admin.ErrBehind) {
		return err
	}
	return gone(v.q.at)
}

// take takes an event, and those that come right behind it. What changes
// numbers only is taken as it is told; for all else is asked.
func (v *view) take(ev admin.Event, more <-chan admin.Event) (changed bool, err error) {
	settle := time.NewTimer(crowdTime)
	defer settle.Stop()
	ask := false
	for ok := true; ok; {
		if ev.Kind == admin.KindStatistics {
			fresh, unused := v.count(ev)
			changed, ask = changed || fresh, ask || unused
		} else if len(v.q.words) == 0 || ev.Service == v.q.words[0] || ev.Service == "" {
			ask = true
		}
		select {
		case ev, ok = <-more: // its end is seen by the next look
		case <-settle.C:
			ok = false
		}
	}
	if !ask {
		return changed, nil
	}
	err = v.ask()
	var told *admin.Problem
	if err != nil && !errors.As(err, &told) {
		err = gone(v.q.at) // the stream ends, too
	}
	return true, err
}

// count takes the numbers of a service, and reports whether they are new, and
// whether nobody uses the child any more: then there is a moment to sleep at.
func (v *view) count(ev admin.Event) (changed, unused bool) {
	i := slices.IndexFunc(v.services, func(s admin.Service) bool { return s.Name == ev.Service })
	if i < 0 || ev.Statistics == nil || v.services[i].Statistics() == *ev.Statistics {
		return false, false
	}
	s, n := &v.services[i], ev.Statistics
	s.Connections, s.Waiting, s.Resting, s.Served = n.Connections, n.Waiting, n.Resting, n.Served
	s.Starts, s.Failures, s.BytesUp, s.BytesDown = n.Starts, n.Failures, n.BytesUp, n.BytesDown
	unused = n.Connections <= n.Resting
	if !unused {
		s.IdleDeadline = time.Time{}
	}
	return true, unused && s.State == admin.StateOpened
}

// draw writes what there is: on a terminal in place of what was there.
func (v *view) draw() error {
	text := v.text(time.Now())
	switch {
	case v.json:
	case v.terminal:
		text = v.screen(text)
	default:
		text += "\n"
	}
	_, err := io.WriteString(v.q.out, text)
	return err
}

// screen writes text over what was on the terminal before: without wrapped
// lines, from the first place on, each line to its end, and what is below
// (DECAWM; ECMA-48, 8.3.57, 8.3.41, 8.3.39).
func (v *view) screen(text string) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if _, height, err := term.GetSize(int(os.Stdout.Fd())); err == nil && height > 1 && len(lines) >= height {
		lines = append(lines[:height-2], "…")
	}
	begin := "\x1b[?7l\x1b[H"
	if !v.drawn {
		v.drawn = true
		begin += "\x1b[2J"
	}
	return begin + strings.Join(lines, "\x1b[K\n") + "\x1b[K\n\x1b[J\x1b[?7h"
}
