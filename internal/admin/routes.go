package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

const (
	// holdMost is the longest hold.
	holdMost = 8760 * time.Hour
	// listedMost and listedUsually are how many connections are listed.
	listedMost, listedUsually = 10000, 1000
)

// route is one thing that can be asked for.
type route struct {
	pattern string // of http.ServeMux
	answer  http.HandlerFunc
}

// table lists everything that can be asked for.
func (s *Server) table() []route {
	const one = "/api/v1/services/{name}"
	return []route{
		{"GET /healthz", s.answerHealth},
		{"GET /readyz", s.answerReady},
		{"GET /metrics", s.answerMetrics},
		{"GET /api/v1/version", s.answerVersion},
		{"GET /api/v1/services", s.answerServices},
		{"GET " + one, s.answerService},
		{"GET " + one + "/connections", s.answerConnections},
		{"GET " + one + "/output", s.streamOutput},
		{"GET /api/v1/events", s.streamEvents},
		{"GET /api/v1/groups", s.answerGroups},
		{"POST " + one + "/start", s.obey(Start)},
		{"POST " + one + "/stop", s.obey(Stop)},
		{"POST " + one + "/hold", s.obey(Hold)},
		{"POST " + one + "/release", s.obey(Release)},
		{"POST /api/v1/reload", s.reload},
	}
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.table() {
		mux.HandleFunc(r.pattern, r.answer)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.shows(r) {
			s.cfg.Page.ServeHTTP(w, r)
			return
		}
		if h, pattern := mux.Handler(r); pattern == "" {
			h.ServeHTTP(&worded{ResponseWriter: w, r: r}, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// worded puts the mux's own refusals into our words.
type worded struct {
	http.ResponseWriter
	r *http.Request
}

// WriteHeader implements http.ResponseWriter.
func (w *worded) WriteHeader(status int) {
	p := &Problem{Status: status, Text: fmt.Sprintf("there is nothing at %q", w.r.URL.Path), Hint: "see docs/openapi.yaml for what there is"}
	if status == http.StatusMethodNotAllowed {
		p.Text, p.Hint = w.r.Method+" is not for this", "use "+w.Header().Get("Allow")
	}
	writeProblem(w.ResponseWriter, p)
}

// Write drops the words that were replaced.
func (w *worded) Write(b []byte) (int, error) { return len(b), nil }

func (s *Server) answerHealth(w http.ResponseWriter, _ *http.Request) {
	sayOK(w, s.cfg.Program.Health())
}

func (s *Server) answerReady(w http.ResponseWriter, _ *http.Request) { sayOK(w, s.cfg.Program.Ready()) }

// sayOK answers 200 and "ok", or 503 and what is wrong.
func sayOK(w http.ResponseWriter, err error) {
	if err != nil {
		writeProblem(w, &Problem{Status: http.StatusServiceUnavailable, Text: err.Error()})
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, "ok")
}

func (s *Server) answerMetrics(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Metrics == nil {
		writeProblem(w, &Problem{Status: http.StatusNotFound, Text: "there are no metrics here"})
		return
	}
	s.cfg.Metrics.ServeHTTP(w, r)
}

func (s *Server) answerVersion(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.cfg.Version) }

func (s *Server) answerServices(w http.ResponseWriter, _ *http.Request) {
	list := listed(s.cfg.Services.Services())
	for i := range list {
		list[i].complete()
	}
	writeJSON(w, services{list})
}

func (s *Server) answerService(w http.ResponseWriter, r *http.Request) {
	s.writeService(w, r.PathValue("name"))
}

// writeService answers with a service as it is now.
func (s *Server) writeService(w http.ResponseWriter, name string) {
	all := s.cfg.Services.Services()
	i := slices.IndexFunc(all, func(one Service) bool { return one.Name == name })
	if i < 0 {
		writeProblem(w, s.explain(name, ErrUnknown))
		return
	}
	all[i].complete()
	writeJSON(w, all[i])
}

// complete makes empty lists of those that are missing.
func (s *Service) complete() {
	s.ColdStarts, s.Timeline = listed(s.ColdStarts), listed(s.Timeline)
}

func listed[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (s *Server) answerConnections(w http.ResponseWriter, r *http.Request) {
	limit := listedUsually
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > listedMost {
			writeProblem(w, badQuery("limit", text, fmt.Sprintf("write a number from 1 to %d", listedMost)))
			return
		}
		limit = n
	}
	name := r.PathValue("name")
	list, total, err := s.cfg.Services.Connections(name, limit)
	if err != nil {
		writeProblem(w, s.explain(name, err))
		return
	}
	writeJSON(w, connections{Total: total, Connections: listed(list)})
}

func (s *Server) answerGroups(w http.ResponseWriter, _ *http.Request) {
	all := listed(s.cfg.Program.Groups())
	for i := range all {
		g := &all[i]
		g.Services, g.Waiting, g.Resources = listed(g.Services), listed(g.Waiting), listed(g.Resources)
	}
	writeJSON(w, groups{all})
}

// obey answers when an order was carried out.
func (s *Server) obey(v Verb) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		o := Order{Verb: v}
		if v == Hold {
			var p *Problem
			if o.For, p = holdTime(r.URL.Query()); p != nil {
				writeProblem(w, p)
				return
			}
		}
		name := r.PathValue("name")
		err := s.patiently(w, func() error { return s.cfg.Services.Do(r.Context(), name, o) })
		if err != nil {
			writeProblem(w, s.explain(name, err))
			return
		}
		s.writeService(w, name)
	}
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	var changed Reloaded
	err := s.patiently(w, func() (err error) {
		changed, err = s.cfg.Program.Reload(r.Context())
		return err
	})
	if err != nil {
		writeProblem(w, s.explain("", err))
		return
	}
	changed.complete()
	writeJSON(w, changed)
}

// complete makes empty lists of those that are missing.
func (r *Reloaded) complete() {
	r.Added, r.Changed, r.Removed, r.Unchanged = listed(r.Added), listed(r.Changed), listed(r.Removed), listed(r.Unchanged)
}

// patiently does what takes as long as it takes. The answer is bounded again.
func (s *Server) patiently(w http.ResponseWriter, do func() error) error {
	control := http.NewResponseController(w)
	// The read deadline ends the request's context, too. A writer without
	// deadlines is no connection, but a test's.
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Time{})
	err := do()
	_ = control.SetWriteDeadline(time.Now().Add(exchangeTime))
	return err
}

// holdTime reads ?for=.
func holdTime(query url.Values) (time.Duration, *Problem) {
	text := query.Get("for")
	d, err := time.ParseDuration(text)
	switch {
	case text == "":
		return 0, &Problem{Status: http.StatusBadRequest, Text: "for is missing", Hint: "write for how long, such as ?for=2h"}
	case err != nil:
		return 0, badQuery("for", text, "write a number with its unit, such as 90s, 2h or 1h30m")
	case d <= 0, d > holdMost:
		return 0, badQuery("for", text, "write more than 0 and at most 8760h")
	}
	return d, nil
}

// flagIn reads a parameter that is 0 or 1, and 1 if it is missing.
func flagIn(query url.Values, name string) (bool, *Problem) {
	switch text := query.Get(name); text {
	case "", "1":
		return true, nil
	case "0":
		return false, nil
	default:
		return false, badQuery(name, text, "write 0 or 1")
	}
}

func badQuery(name, text, hint string) *Problem {
	return &Problem{Status: http.StatusBadRequest, Text: fmt.Sprintf("%s=%.40q is wrong", name, text), Hint: hint}
}

// explain makes the answer of an error about the service name.
func (s *Server) explain(name string, err error) *Problem {
	var told *Problem
	switch {
	case errors.As(err, &told):
		return told
	case errors.Is(err, ErrUnknown):
		p := &Problem{Status: http.StatusNotFound, Text: fmt.Sprintf("there is no service %.80q", name)}
		if names := s.names(); names != "" {
			p.Hint = "there are " + names
		}
		return p
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &Problem{Status: http.StatusServiceUnavailable, Text: "this was not waited for until its end"}
	}
	return &Problem{Status: http.StatusInternalServerError, Text: err.Error()}
}

// names lists the services for people, the first few of them.
func (s *Server) names() string {
	const few = 10
	var text string
	for i, one := range s.cfg.Services.Services() {
		switch {
		case i == few:
			return text + " …"
		case i > 0:
			text += ", "
		}
		text += one.Name
	}
	return text
}

func writeJSON(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	// It fails when the asker has gone.
	_ = json.NewEncoder(w).Encode(answer)
}

func writeProblem(w http.ResponseWriter, p *Problem) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}
