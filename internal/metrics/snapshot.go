package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The descriptions of everything that is copied. docs/metrics.md is made of them.
var (
	descBuild = desc("build_info", "Which tiproxy this is; always 1.", "version", "commit", "goversion")

	descActive  = desc("connections_active", "Connections to the child at this moment.", "service")
	descWaiting = desc("connections_waiting", "Clients that wait for the child at this moment.", "service")
	descConns   = desc("connections_total", "Connections that are over, by how they ended.", "service", "result")
	descBytes   = desc("bytes_total", "Bytes carried: up = to the child, down = from it.", "service", "direction")

	descState    = desc("backend_state", "1 for the state in which the service is, 0 for the others.", "service", "state")
	descStarts   = desc("backend_starts_total", "Starts of the child, by result: opened or failed.", "service", "result")
	descStops    = desc("backend_stops_total", "Ends of the child, by reason.", "service", "reason")
	descAwake    = desc("backend_active_seconds_total", "Seconds in which the child existed.", "service")
	descAsleep   = desc("backend_asleep_seconds_total", "Seconds in which nothing of the child existed.", "service")
	descIdleStop = desc("idle_stop_timestamp_seconds", "When the child is going to be stopped if nobody comes, as a Unix time; absent while that is not foreseen.", "service")

	descReloads  = desc("config_reloads_total", "Reloads of the configuration, by result: ok or failed.", "result")
	descReloadOK = desc("config_last_reload_successful", "1 if the newest reload of the configuration was good, else 0.")
	descReloaded = desc("config_last_reload_success_timestamp_seconds", "When a configuration was last taken, as a Unix time.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tiproxy_"+name, help, labels, nil)
}

// snapshot collects what a Source says at the moment of the scrape, so that what
// is gone leaves nothing behind.
type snapshot struct {
	src   Source
	build Build
}

// Describe implements prometheus.Collector.
func (s *snapshot) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descBuild, descActive, descWaiting, descConns, descBytes, descState, descStarts, descStops, descAwake,
		descAsleep, descIdleStop, descReloads, descReloadOK, descReloaded,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *snapshot) Collect(ch chan<- prometheus.Metric) {
	out := sink(ch)
	out.gauge(descBuild, 1, s.build.Version, s.build.Commit, s.build.Go)
	for _, svc := range s.src.Services() {
		out.service(svc)
	}
	r := s.src.Reloads()
	out.count(descReloads, r.OK, "ok")
	out.count(descReloads, r.Failed, "failed")
	out.gauge(descReloadOK, truth(!r.LastFailed))
	out.gauge(descReloaded, unix(r.LastSuccess))
}

// sink is where metrics go.
type sink chan<- prometheus.Metric

func (c sink) service(s Service) {
	c.gauge(descActive, float64(s.Active), s.Name)
	c.gauge(descWaiting, float64(s.Waiting), s.Name)
	for result, n := range s.Results {
		c.count(descConns, n, s.Name, result)
	}
	c.count(descBytes, s.Up, s.Name, "up")
	c.count(descBytes, s.Down, s.Name, "down")
	var awake time.Duration
	for i, state := range States {
		c.gauge(descState, truth(state == s.State), s.Name, state)
		if i > 0 {
			awake += s.InState[state]
		}
	}
	c.counter(descAwake, awake.Seconds(), s.Name)
	c.counter(descAsleep, s.InState[States[0]].Seconds(), s.Name)
	c.count(descStarts, s.Opened, s.Name, "opened")
	c.count(descStarts, s.Failed, s.Name, "failed")
	for reason, n := range s.Stops {
		c.count(descStops, n, s.Name, reason)
	}
	if !s.IdleStop.IsZero() {
		c.gauge(descIdleStop, unix(s.IdleStop), s.Name)
	}
}

func (c sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (c sink) counter(d *prometheus.Desc, v float64, labels ...string) {
	c <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (c sink) count(d *prometheus.Desc, n uint64, labels ...string) {
	c.counter(d, float64(n), labels...)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return t.Sub(time.Unix(0, 0)).Seconds()
}
