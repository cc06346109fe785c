//go:build linux

package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"time"
)

// event is one line of tiproxy's log.
type event struct {
	level, msg string
	attrs      map[string]any
	line       string
}

// text is an attribute as it would be read aloud.
func (e event) text(key string) string {
	switch v := e.attrs[key].(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		b, _ := json.Marshal(v)
		return string(b)
	}
}

// stream collects what comes out of one descriptor and tells those who wait
// for more of it.
type stream struct {
	mu      sync.Mutex
	raw     strings.Builder
	events  []event
	counts  map[string]int // of events, by message
	ended   bool
	changed chan struct{} // closed and replaced when something was added
}

func newStream() *stream {
	return &stream{counts: map[string]int{}, changed: make(chan struct{})}
}

// feed reads r to its end, which comes when the last process that holds the
// other side has closed it.
func (s *stream) feed(r io.ReadCloser) {
	defer r.Close()
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		s.add(line, err != nil)
		if err != nil {
			return
		}
	}
}

func (s *stream) add(line string, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raw.WriteString(line)
	if e, ok := parseEvent(line); ok {
		s.events = append(s.events, e)
		s.counts[e.msg]++
	}
	s.ended = s.ended || last
	close(s.changed)
	s.changed = make(chan struct{})
}

// parseEvent finds a log line also behind a piece of the child's output that
// ended without a newline.
func parseEvent(line string) (event, bool) {
	at := strings.Index(line, `{"time":`)
	if at < 0 {
		return event{}, false
	}
	e := event{line: strings.TrimSpace(line[at:])}
	if err := json.Unmarshal([]byte(e.line), &e.attrs); err != nil {
		return event{}, false
	}
	e.level, e.msg = e.text("level"), e.text("msg")
	return e, e.msg != ""
}

// text is everything so far.
func (s *stream) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.raw.String()
}

func (s *stream) all() []event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events[:len(s.events):len(s.events)]
}

// count is how many lines of the log so far say msg.
func (s *stream) count(msg string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[msg]
}

// until waits until cond holds, asked again after everything that is added;
// false when the stream ended or the time was over first.
func (s *stream) until(limit time.Duration, cond func() bool) bool {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		changed, ended := s.changed, s.ended
		s.mu.Unlock()
		switch {
		case cond():
			return true
		case ended:
			return false
		}
		select {
		case <-changed:
		case <-timeout.C:
			return cond()
		}
	}
}

// next finds the first event from position from on that says msg, waiting for
// it, and the position behind it.
func (s *stream) next(from int, msg string, limit time.Duration) (found event, behind int, ok bool) {
	ok = s.until(limit, func() bool {
		for all := s.all(); from < len(all); from++ {
			if all[from].msg == msg {
				found = all[from]
				return true
			}
		}
		return false
	})
	return found, from + 1, ok
}

// untilEnd waits until nobody holds the other side any more.
func (s *stream) untilEnd(limit time.Duration) bool {
	s.until(limit, func() bool { return false })
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}
