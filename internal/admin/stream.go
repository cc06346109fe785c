package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"
)

const (
	// writeTime is how long a stream's reader may take nothing.
	writeTime = 10 * time.Second
	// beatTime is how long a stream says nothing: what is between us and the
	// reader may take a longer silence for the end.
	beatTime = 25 * time.Second
	// countTime is how often numbers are compared while they may change.
	countTime = time.Second
)

// stream writes server-sent events: WHATWG HTML, 9.2.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	err     error // of the first write that failed
}

// openStream begins a stream, if there is room for one; else it answers why not.
func (s *Server) openStream(w http.ResponseWriter, r *http.Request) (out *stream, end func()) {
	select {
	case s.streams <- struct{}{}:
	default:
		w.Header().Set("Retry-After", "5")
		writeProblem(w, &Problem{Status: http.StatusServiceUnavailable, Text: fmt.Sprintf("%d streams are open already", streamsMost), Hint: "close one"})
		return nil, nil
	}
	if !s.enter(&s.telling) {
		<-s.streams
		writeProblem(w, &Problem{Status: http.StatusServiceUnavailable, Text: "tiproxy is stopping"})
		return nil, nil
	}
	out = &stream{w: w, control: http.NewResponseController(w)}
	_ = out.control.SetReadDeadline(time.Time{}) // see patiently
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx between us and the reader
	out.allow()
	out.flush()
	if r.Method == http.MethodHead {
		out.err = http.ErrBodyNotAllowed
	}
	return out, func() {
		<-s.streams
		s.telling.Done()
	}
}

// allow gives the next write its time.
func (out *stream) allow() {
	_ = out.control.SetWriteDeadline(time.Now().Add(writeTime))
}

// send writes one event. The id may be "".
func (out *stream) send(id, kind string, data any) {
	if out.err != nil {
		return
	}
	text, err := json.Marshal(data)
	if err != nil {
		out.err = err
		return
	}
	out.allow()
	if id != "" {
		id = "id: " + id + "\n"
	}
	_, out.err = fmt.Fprintf(out.w, "%sevent: %s\ndata: %s\n\n", id, kind, text)
}

// beat writes something that means nothing.
func (out *stream) beat() {
	if out.err == nil {
		out.allow()
		_, out.err = fmt.Fprint(out.w, ":\n\n")
	}
	out.flush()
}

func (out *stream) flush() {
	if out.err == nil {
		out.err = out.control.Flush()
	}
}

// drop tells the reader that it was too slow.
func (out *stream) drop() {
	out.send("", KindDropped, Event{Kind: KindDropped, At: time.Now(), Reason: "what happened was not read in time"})
	out.flush()
}

// beginning is the number behind which a stream begins.
func (s *Server) beginning(r *http.Request) (uint64, *Problem) {
	history, p := flagIn(r.URL.Query(), "history")
	if p != nil {
		return 0, p
	}
	after := s.cfg.Journal.number(r.Header.Get("Last-Event-ID"))
	if !history && after == 0 {
		after = math.MaxUint64
	}
	return after, nil
}

// streamEvents tells what happens until the reader leaves or is too slow.
func (s *Server) streamEvents(w http.ResponseWriter, r *http.Request) {
	after, p := s.beginning(r)
	if p != nil {
		writeProblem(w, p)
		return
	}
	out, end := s.openStream(w, r)
	if out == nil {
		return
	}
	defer end()
	past, reader := s.cfg.Journal.follow(after)
	defer s.cfg.Journal.dismiss(reader)
	for _, e := range past {
		s.sendEntry(out, e)
	}
	counts := counts{services: s.cfg.Services, told: make(map[string]Statistics)}
	counts.send(out)
	out.flush()
	s.tell(r.Context(), out, reader, &counts)
}

// tell writes new events and numbers that have changed.
func (s *Server) tell(ctx context.Context, out *stream, reader *reader, counts *counts) {
	tick := time.NewTicker(countTime)
	defer tick.Stop()
	beat := time.NewTicker(beatTime)
	defer beat.Stop()
	counting := true
	for out.err == nil {
		select {
		case <-ctx.Done():
			s.sayLast(out, reader)
			return
		case <-tick.C:
			if counting = counts.send(out); !counting {
				tick.Stop() // nothing can change before something happens
			}
			out.flush()
		case <-beat.C:
			out.beat()
		case e, ok := <-reader.c:
			if !ok {
				out.drop()
				return
			}
			s.sendEntry(out, e)
			if len(reader.c) == 0 {
				out.flush()
			}
			if !counting {
				counting = true
				tick.Reset(countTime)
			}
		}
	}
}

// sayLast writes what has happened by now to a reader who has not left.
func (s *Server) sayLast(out *stream, reader *reader) {
	for s.ctx.Err() != nil {
		select {
		case e, ok := <-reader.c:
			if ok {
				s.sendEntry(out, e)
				continue
			}
		default:
		}
		out.flush()
		return
	}
}

func (s *Server) sendEntry(out *stream, e entry) {
	out.send(s.cfg.Journal.id(e.seq), e.event.Kind, e.event)
}

// counts are the numbers of services as one reader knows them.
type counts struct {
	services Services
	told     map[string]Statistics
}

// send tells the numbers that have changed, and reports whether others may
// change before an event is told: not while every child sleeps.
func (c *counts) send(out *stream) (busy bool) {
	now := make(map[string]Statistics)
	for _, one := range c.services.Services() {
		n := one.Statistics()
		now[one.Name] = n
		old, known := c.told[one.Name]
		if changed := !known || old != n; changed {
			out.send("", KindStatistics, Event{Kind: KindStatistics, At: time.Now(), Service: one.Name, State: one.State, Statistics: &n})
			busy = true
		}
		if one.State != StateClosed || n.Waiting > 0 || n.Connections > 0 {
			busy = true
		}
	}
	c.told = now
	return busy
}

// streamOutput tells what a child printed and prints.
func (s *Server) streamOutput(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	after, p := s.beginning(r)
	follow, q := flagIn(r.URL.Query(), "follow")
	if p == nil {
		p = q
	}
	output, err := s.cfg.Services.Output(name)
	if err != nil {
		p = s.explain(name, err)
	}
	if p != nil {
		writeProblem(w, p)
		return
	}
	out, end := s.openStream(w, r)
	if out == nil {
		return
	}
	defer end()
	past, follower := output.Follow(after)
	defer follower.Close()
	s.sendLines(out, past)
	for follow && out.err == nil && s.followLines(r.Context(), out, follower) {
	}
}

// followLines writes the next lines, and reports whether there may be more.
func (s *Server) followLines(ctx context.Context, out *stream, follower Follower) bool {
	bounded, cancel := context.WithTimeout(ctx, beatTime)
	defer cancel()
	lines, err := follower.Next(bounded)
	s.sendLines(out, lines)
	switch {
	case err == nil:
		return true
	case ctx.Err() != nil:
		return false
	case errors.Is(err, context.DeadlineExceeded):
		out.beat()
		return true
	case errors.Is(err, ErrBehind):
		out.drop()
	}
	return false
}

// lineKind is the type of the events that a stream of output is made of.
const lineKind = "line"

func (s *Server) sendLines(out *stream, lines []Line) {
	for _, l := range lines {
		out.send(s.cfg.Journal.id(l.Seq), lineKind, l)
	}
	out.flush()
}
