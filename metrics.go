package main

import (
	"runtime"
	"time"

	"tiproxy/internal/metrics"
	"tiproxy/internal/pool"
)

// openMetrics prepares for questions about what is counted, if anybody can ask.
func (p *program) openMetrics() {
	if p.adminAt.at.Network == "" {
		return
	}
	v, c := built()
	p.exporter = metrics.New(&counted{p: p, since: time.Now()}, metrics.Build{Version: v, Commit: c, Go: runtime.Version()})
}

// counted is what the program's rooms count, as metrics shows it.
type counted struct {
	p     *program
	since time.Time // tiproxy was started
}

// Services implements metrics.Source.
func (c *counted) Services() (all []metrics.Service) {
	for _, v := range c.p.services() {
		all = append(all, v.counted())
	}
	return all
}

// Reloads implements metrics.Source: what tiproxy was started with was right.
func (c *counted) Reloads() metrics.Reloads {
	r := c.p.lastReload()
	out := metrics.Reloads{OK: r.ok, Failed: r.failed, LastFailed: r.err != nil, LastSuccess: c.since}
	if r.ok > 0 {
		out.LastSuccess = r.taken
	}
	return out
}

// counted is what the rooms of one service count.
func (v *service) counted() metrics.Service {
	s, c := v.pool.Snapshot(), v.server.Stats()
	up, down := v.server.Carried()
	out := metrics.Service{
		Name: v.name, State: s.State.String(), InState: map[string]time.Duration{},
		Active: v.connections(), Waiting: s.Waiting, Up: up, Down: down,
		Results: map[string]uint64{
			"closed": c.Closed, "client_reset": c.ClientReset, "upstream_reset": c.UpstreamReset, "killed": c.Killed,
			"client_left": c.ClientLeft, "refused": c.Refused, "start_failed": c.StartFailed, "drained": c.Drained,
			"turned_away": c.TurnedAway, "quiet": c.Quiet,
		},
		Opened: v.starts.Load(), Failed: s.Failures, Stops: map[string]uint64{}, IdleStop: s.IdleEnd,
	}
	for state, d := range s.InState {
		out.InState[pool.State(state).String()] = d
	}
	for why, n := range s.Stops {
		out.Stops[string(why)] = n
	}
	return out
}
