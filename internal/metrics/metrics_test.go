package metrics

import (
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

// house is a source with one of everything.
type house struct {
	services []Service
	reloads  Reloads
}

func (h *house) Services() []Service { return h.services }
func (h *house) Reloads() Reloads    { return h.reloads }

func newHouse() *house {
	return &house{
		services: []Service{{
			Name: "db", State: "opened",
			InState: map[string]time.Duration{"closed": 90 * time.Second, "starting": time.Second, "opened": 8 * time.Second, "shutdown": time.Second},
			Active:  3, Waiting: 1, Results: map[string]uint64{"closed": 7, "refused": 1}, Up: 100, Down: 200,
			Opened: 2, Failed: 1, Stops: map[string]uint64{"idle": 1}, IdleStop: time.Unix(1700000000, 0),
		}, {Name: "web", State: "closed"}},
		reloads: Reloads{OK: 2, Failed: 1, LastFailed: true, LastSuccess: time.Unix(1600000000, 0)},
	}
}

func scrape(t *testing.T, e *Exporter) string {
	t.Helper()
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestScrapeSaysWhatIsCounted(t *testing.T) {
	h := newHouse()
	e := New(h, Build{Version: "v1", Commit: "abc", Go: "go1"})
	times := e.Service("db")
	times.ColdStart(30 * time.Millisecond)
	times.Waited(2 * time.Second)
	times.Lasted(time.Minute)
	got := scrape(t, e)
	for _, want := range []string{
		`tiproxy_build_info{commit="abc",goversion="go1",version="v1"} 1`,
		`tiproxy_connections_active{service="db"} 3`,
		`tiproxy_connections_waiting{service="db"} 1`,
		`tiproxy_connections_total{result="refused",service="db"} 1`,
		`tiproxy_bytes_total{direction="down",service="db"} 200`,
		`tiproxy_backend_state{service="db",state="opened"} 1`,
		`tiproxy_backend_state{service="db",state="closed"} 0`,
		`tiproxy_backend_state{service="web",state="closed"} 1`,
		`tiproxy_backend_active_seconds_total{service="db"} 10`,
		`tiproxy_backend_asleep_seconds_total{service="db"} 90`,
		`tiproxy_backend_starts_total{result="failed",service="db"} 1`,
		`tiproxy_backend_stops_total{reason="idle",service="db"} 1`,
		`tiproxy_idle_stop_timestamp_seconds{service="db"} 1.7e+09`,
		`tiproxy_backend_ready_duration_seconds_bucket{service="db",le="0.025"} 0`,
		`tiproxy_backend_ready_duration_seconds_bucket{service="db",le="0.05"} 1`,
		`tiproxy_connection_wait_seconds_sum{service="db"} 2`,
		`tiproxy_connection_duration_seconds_count{service="db"} 1`,
		`tiproxy_config_reloads_total{result="failed"} 1`,
		`tiproxy_config_last_reload_successful 0`,
		`tiproxy_config_last_reload_success_timestamp_seconds 1.6e+09`,
		`go_goroutines `, `process_open_fds `,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(got, `tiproxy_idle_stop_timestamp_seconds{service="web"}`) {
		t.Error("a stop is foreseen for a service that is closed")
	}
}

// A service that was removed leaves no series behind.
func TestForgottenServiceLeavesNothing(t *testing.T) {
	h := newHouse()
	e := New(h, Build{})
	e.Service("db").ColdStart(time.Second)
	h.services = h.services[1:]
	e.Forget("db")
	if got := scrape(t, e); strings.Contains(got, `service="db"`) {
		t.Errorf("still there:\n%s", got)
	}
	Times{}.ColdStart(time.Second) // takes none, and does not mind
}

func TestNamesAreConventional(t *testing.T) {
	e := New(newHouse(), Build{})
	e.Service("db").ColdStart(time.Second)
	problems, err := testutil.GatherAndLint(e.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "tiproxy_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// docs/metrics.md lists every metric with its labels and its meaning.
func TestPageListsEveryMetric(t *testing.T) {
	e := New(newHouse(), Build{})
	times := e.Service("db")
	times.ColdStart(1)
	times.Waited(1)
	times.Lasted(1)
	families, err := e.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n")
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "tiproxy_") {
			fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), labels(f), f.GetHelp())
		}
	}
	const path = "../../docs/metrics.md"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const mark = "<!-- the table is made by go test ./internal/metrics -update -->\n"
	head, rest, ok := strings.Cut(string(page), mark)
	_, tail, ok2 := strings.Cut(rest, "<!-- end -->")
	if !ok || !ok2 {
		t.Fatal("docs/metrics.md has no place for the table")
	}
	want := head + mark + table.String() + "<!-- end -->" + tail
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(page) != want {
		t.Error("docs/metrics.md is out of date: go test ./internal/metrics -update")
	}
}

// labels are the names of a metric's labels.
func labels(f *dto.MetricFamily) string {
	var names []string
	for _, l := range f.GetMetric()[0].GetLabel() {
		names = append(names, l.GetName())
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
