package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tiproxy/internal/admin"
)

const eventsPath = "/api/v1/events"

// follow opens a stream.
func follow(t *testing.T, at admin.Target, path, last string) *admin.Stream {
	t.Helper()
	s, err := client(t, at).Stream(briefly(t), path, last)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// next returns the next event that is no statistics.
func next(t *testing.T, s *admin.Stream) (admin.Message, admin.Event) {
	t.Helper()
	for {
		m, err := s.Next()
		must(t, err)
		var ev admin.Event
		must(t, json.Unmarshal(m.Data, &ev))
		if m.Kind != admin.KindStatistics {
			return m, ev
		}
		if m.ID != "" {
			t.Errorf("statistics have the id %q", m.ID)
		}
	}
}

func TestEvents_HistoryFirstAndFromWhereOneStopped(t *testing.T) {
	w := newWorld("db")
	at, _ := w.onSocket(t)
	for i := range 3 {
		w.journal.Tell(admin.Event{Kind: admin.KindStarting, Service: "db", Who: fmt.Sprint(i)})
	}
	s := follow(t, at, eventsPath, "")
	var ids []string
	for i := range 3 {
		m, ev := next(t, s)
		if ev.Who != fmt.Sprint(i) || ev.At.IsZero() || m.Kind != ev.Kind {
			t.Errorf("event %d: %v %+v", i, m, ev)
		}
		ids = append(ids, m.ID)
	}
	w.journal.Tell(admin.Event{Kind: admin.KindOpened, Service: "db", Who: "later"})
	if _, ev := next(t, s); ev.Who != "later" {
		t.Errorf("then: %+v", ev)
	}
	for last, want := range map[string]string{ids[1]: "2", "other-7": "0", "": "0", ids[0] + "x": "0"} {
		if _, ev := next(t, follow(t, at, eventsPath, last)); ev.Who != want {
			t.Errorf("after %q: %+v, want %q", last, ev, want)
		}
	}
	fresh := follow(t, at, eventsPath+"?history=0", "")
	if m, err := fresh.Next(); err != nil || m.Kind != admin.KindStatistics {
		t.Errorf("without history: %v, %v", m, err)
	}
	w.journal.Tell(admin.Event{Kind: admin.KindClosed, Service: "db", Who: "new"})
	if _, ev := next(t, fresh); ev.Who != "new" {
		t.Errorf("without history: %+v", ev)
	}
}

func TestEvents_MemoryIsBounded(t *testing.T) {
	w := newWorld()
	at, _ := w.onSocket(t)
	for i := range admin.EventsMost + 10 {
		w.journal.Tell(admin.Event{Kind: admin.KindStarting, Who: fmt.Sprint(i)})
	}
	if _, ev := next(t, follow(t, at, eventsPath, "")); ev.Who != "10" {
		t.Errorf("the oldest is %q", ev.Who)
	}
}

// Close ends streams at once, whoever reads them or does not.
func TestEvents_CloseEndsThem(t *testing.T) {
	w := newWorld("db")
	at, server := w.onSocket(t)
	s := follow(t, at, eventsPath, "")
	out := follow(t, at, "/api/v1/services/db/output", "")
	if m, err := s.Next(); err != nil || m.Kind != admin.KindStatistics {
		t.Fatal(m, err)
	}
	server.Close()
	for _, s := range []*admin.Stream{s, out} {
		if m, err := s.Next(); err == nil {
			t.Errorf("after Close: %v", m)
		}
	}
}

func TestEvents_NumberOfStreamsIsBounded(t *testing.T) {
	w := newWorld("db")
	at, _ := w.onSocket(t)
	var open []*admin.Stream
	for range admin.StreamsMost {
		open = append(open, follow(t, at, eventsPath, ""))
	}
	_, err := client(t, at).Stream(briefly(t), "/api/v1/services/db/output", "")
	var p *admin.Problem
	if !errors.As(err, &p) || p.Status != http.StatusServiceUnavailable {
		t.Fatalf("one more: %v", err)
	}
	// What is no stream is answered, and one that ends makes room.
	must(t, client(t, at).Get(briefly(t), "/api/v1/version", nil))
	must(t, open[0].Close())
	for ctx := briefly(t); ; {
		s, err := client(t, at).Stream(ctx, eventsPath, "")
		if err == nil {
			s.Close()
			return
		}
		if !errors.As(err, &p) {
			t.Fatal(err)
		}
	}
}

// Somebody who reads nothing holds nobody up and is told why it ended.
func TestEvents_SlowReadersAreDropped(t *testing.T) {
	w := newWorld()
	at, _ := w.onSocket(t)
	slow, quick := follow(t, at, eventsPath, ""), follow(t, at, eventsPath, "")
	long := strings.Repeat("x", 4<<10)
	const many = 4 * admin.EventsBehind
	for i := range many {
		w.journal.Tell(admin.Event{Kind: admin.KindStarting, Who: long})
		if _, ev := next(t, quick); ev.Who != long {
			t.Fatalf("the quick one lost event %d: %v", i, ev.Kind)
		}
	}
	seen := 0
	for {
		m, err := slow.Next()
		must(t, err)
		seen++
		if m.Kind == admin.KindDropped {
			break
		}
	}
	if _, err := slow.Next(); !errors.Is(err, io.EOF) || seen >= many {
		t.Errorf("%d events, then %v", seen, err)
	}
}

// bubble answers one question in a bubble of its own.
func bubble(t *testing.T, w *world, path string) (body func() string, leave func()) {
	s := admin.New(admin.Config{Services: w, Program: w, Journal: w.journal, Token: token})
	ctx, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	out := httptest.NewRecorder()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Handler().ServeHTTP(out, r)
	}()
	return func() string { synctest.Wait(); return out.Body.String() }, func() { cancel(); <-done; s.Close() }
}

func TestEvents_NumbersAreToldWhenTheyChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("db", "web")
		body, leave := bubble(t, w, eventsPath)
		defer leave()
		told := func() int { return strings.Count(body(), "event: statistics") }
		if n := told(); n != 2 {
			t.Errorf("at first: %d of 2 services", n)
		}
		time.Sleep(20 * time.Second)
		if n := told(); n != 2 {
			t.Errorf("asleep: %d", n-2)
		}
		w.change(func(w *world) { w.services[0].State, w.services[0].Connections = admin.StateOpened, 1 })
		w.journal.Tell(admin.Event{Kind: admin.KindOpened, Service: "db"})
		time.Sleep(1100 * time.Millisecond)
		if n := told(); n != 3 {
			t.Errorf("after a connection: %d", n-2)
		}
		for range 3 { // events do not keep numbers from being told
			w.change(func(w *world) { w.services[0].BytesUp++ })
			for range 4 {
				w.journal.Tell(admin.Event{Kind: admin.KindHeld, Service: "db"})
				time.Sleep(250 * time.Millisecond)
			}
		}
		if n := told(); n != 6 {
			t.Errorf("while bytes pass: %d", n-2)
		}
	})
}

func TestEvents_SilenceIsBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("db")
		events, leave := bubble(t, w, eventsPath)
		defer leave()
		output, leave := bubble(t, w, "/api/v1/services/db/output")
		defer leave()
		time.Sleep(time.Minute)
		for _, body := range []string{events(), output()} {
			if n := strings.Count(body, ":\n\n"); n != 2 {
				t.Errorf("%d signs of life in a minute: %q", n, body)
			}
		}
	})
}

func TestOutput_HistoryFirst(t *testing.T) {
	w := newWorld("db")
	at, _ := w.onSocket(t)
	const path = "/api/v1/services/db/output"
	w.output.say("one")
	w.output.say("two")
	line := func(s *admin.Stream) (id, text string) {
		t.Helper()
		m, err := s.Next()
		must(t, err)
		var l admin.Line
		must(t, json.Unmarshal(m.Data, &l))
		if m.Kind != "line" || l.Stream != "stdout" || l.Time.IsZero() {
			t.Errorf("%v %s", m, m.Data)
		}
		return m.ID, l.Line
	}
	s := follow(t, at, path, "")
	id, first := line(s)
	_, second := line(s)
	w.output.say("three")
	if _, third := line(s); first+second+third != "onetwothree" {
		t.Errorf("%q %q %q", first, second, third)
	}
	if _, text := line(follow(t, at, path, id)); text != "two" {
		t.Errorf("behind the first: %q", text)
	}
	past := follow(t, at, path+"?follow=0", "")
	for range 3 {
		line(past)
	}
	if _, err := past.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after history: %v", err)
	}
	w.output.finish(true)
	if m, err := s.Next(); err != nil || m.Kind != admin.KindDropped {
		t.Errorf("too slow: %v, %v", m, err)
	}
	if _, err := s.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("at last: %v", err)
	}
}

// Whoever has taken all places leaves some to those who come after.
func TestConnections_AreBounded(t *testing.T) {
	at, _ := newWorld().onSocket(t)
	var open []net.Conn
	begun := time.Now()
	for range admin.ConnectionsMost {
		c, err := net.Dial("unix", at.Address)
		must(t, err)
		defer c.Close()
		open = append(open, c)
	}
	asked := make(chan error, 1)
	go func() { asked <- check(t, at) }()
	select {
	case err := <-asked:
		if time.Since(begun) < time.Second { // later the first ones are not waited for any more
			t.Errorf("one more was answered: %v", err)
		}
		return
	case <-time.After(20 * time.Millisecond):
	}
	open[0].Close()
	if err := <-asked; err != nil {
		t.Errorf("when there was room: %v", err)
	}
}
