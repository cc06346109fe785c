// Package metrics shows what tiproxy counts in the text format of Prometheus.
//
// What is always true: being asked changes nothing and waits for nobody. Every
// number is somebody else's, copied when it is asked for; only times, of which
// a distribution is wanted, are kept here. A service that is gone leaves no
// series. No label has more values than there are services and words in
// this package's documentation: no addresses, no numbers of processes.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Build says which tiproxy it is.
type Build struct{ Version, Commit, Go string }

// Service is what is counted of one service.
type Service struct {
	Name    string
	State   string                   // one of States
	InState map[string]time.Duration // time spent in each state since tiproxy started

	Active, Waiting int
	Results         map[string]uint64 // connections that are over, by how they ended
	Up, Down        uint64            // bytes to the child and from it

	Opened, Failed uint64            // starts, by how they ended
	Stops          map[string]uint64 // ends of the child, by why
	IdleStop       time.Time         // when it is going to be stopped if nobody comes; zero = not foreseen
}

// States are the names of a service's states. The first is the one in which
// nothing of the child exists.
var States = []string{"closed", "starting", "opened", "shutdown"}

// Reloads is what became of the configuration.
type Reloads struct {
	OK, Failed  uint64
	LastFailed  bool      // the newest one
	LastSuccess time.Time // or when tiproxy was started with it
}

// Source hands over copies of what is counted. It is called for every scrape,
// also several at once.
type Source interface {
	Services() []Service
	Reloads() Reloads
}

// coldBuckets are for times in which a server starts, in seconds: from what a
// tiny one takes to what a model server needs to load its weights.
var coldBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}

// lastBuckets are for how long connections last, in seconds.
var lastBuckets = []float64{.001, .01, .1, 1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600}

// Exporter answers scrapes.
type Exporter struct {
	registry *prometheus.Registry
	cold     *prometheus.HistogramVec
	waited   *prometheus.HistogramVec
	lasted   *prometheus.HistogramVec
}

// New returns an exporter of what src says. Its metrics include those of the Go
// runtime and of the process.
func New(src Source, b Build) *Exporter {
	e := &Exporter{
		registry: prometheus.NewRegistry(),
		cold: histogram("backend_ready_duration_seconds", coldBuckets,
			"How long starts took, from the first client to the child being ready."),
		waited: histogram("connection_wait_seconds", coldBuckets,
			"How long clients were held until they were connected to the child, of those who had to wait."),
		lasted: histogram("connection_duration_seconds", lastBuckets,
			"How long connections lasted, from being accepted to the end of both directions."),
	}
	e.registry.MustRegister(e.cold, e.waited, e.lasted, &snapshot{src: src, build: b},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return e
}

func histogram(name string, buckets []float64, help string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "tiproxy_" + name, Help: help, Buckets: buckets,
	}, []string{"service"})
}

// Handler answers GET with the metrics.
func (e *Exporter) Handler() http.Handler {
	return promhttp.HandlerFor(e.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// Times takes the times of one service. The zero value takes none.
type Times struct{ cold, waited, lasted prometheus.Observer }

// Service returns where the times of a service go.
func (e *Exporter) Service(name string) Times {
	return Times{
		cold:   e.cold.WithLabelValues(name),
		waited: e.waited.WithLabelValues(name),
		lasted: e.lasted.WithLabelValues(name),
	}
}

// Forget drops the times of a service that is gone for good.
func (e *Exporter) Forget(name string) {
	for _, h := range []*prometheus.HistogramVec{e.cold, e.waited, e.lasted} {
		h.DeleteLabelValues(name)
	}
}

// ColdStart takes the time of a start that ended with a ready child.
func (t Times) ColdStart(d time.Duration) { observe(t.cold, d) }

// Waited takes the time for which a client was held before it was connected.
func (t Times) Waited(d time.Duration) { observe(t.waited, d) }

// Lasted takes the time for which a connection existed.
func (t Times) Lasted(d time.Duration) { observe(t.lasted, d) }

func observe(o prometheus.Observer, d time.Duration) {
	if o != nil {
		o.Observe(d.Seconds())
	}
}
