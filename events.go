package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"tiproxy/internal/pool"
	"tiproxy/internal/process"
)

// The messages of the log, one for each event. They are stable: people grep
// for them.
const (
	msgListening    = "listening"
	msgStarting     = "starting"
	msgOpened       = "opened"
	msgStartFailed  = "start failed"
	msgShutdown     = "shutdown"
	msgClosed       = "closed"
	msgStopping     = "stopping"
	msgStopped      = "stopped"
	msgStatistics   = "statistics"
	msgDropped      = "output dropped"
	msgPath         = "path"
	msgAdmin        = "admin"
	msgHeld         = "held"
	msgReleased     = "released"
	msgReloaded     = "reloaded"
	msgReloadFailed = "reload failed"
	msgChanged      = "changed"
	msgLeaving      = "leaving"
	msgGone         = "gone"
)

// logEvent writes what happened to the child. It is the pool's Notify: the
// writers behind the logger never block.
func (v *service) logEvent(ev pool.Event) {
	defer v.member.Event(ev) // behind the line, so that whoever gets room by it is told of later
	attrs := []slog.Attr{slog.Uint64("life", ev.Gen)}
	if life, ok := ev.Life.(interface{ Pid() int }); ok {
		attrs = append(attrs, slog.Int("pid", life.Pid()))
	}
	level, msg := slog.LevelInfo, ""
	var failure []slog.Attr
	switch ev.Kind {
	case pool.EventStarting:
		v.stayHeavy()
		msg = msgStarting
		attrs = append(attrs, slog.String("client", ev.Who), slog.Int("waiting", ev.Waiting))
	case pool.EventOpened:
		v.starts.Add(1)
		v.times.ColdStart(ev.Took)
		msg = msgOpened
		attrs = append(attrs, slog.Duration("took", ev.Took))
	case pool.EventStartFailed:
		level, msg = slog.LevelError, msgStartFailed
		failure = v.failure(ev.Err)
		attrs = append(attrs, failure...)
	case pool.EventShutdown:
		msg = msgShutdown
		attrs = append(attrs, slog.String("reason", string(ev.Reason)))
	case pool.EventClosed:
		if ev.Reason == pool.ReasonCrashed {
			level = slog.LevelWarn
			failure = v.failure(ev.Err)
			attrs = append(attrs, failure...)
		} else {
			attrs = append(attrs, slog.String("status", exitStatus(ev)))
		}
		msg = msgClosed
		v.lighten()
		attrs = append(attrs, slog.Duration("uptime", ev.Uptime), slog.String("reason", string(ev.Reason)))
	}
	v.log.LogAttrs(context.Background(), level, msg, attrs...)
	v.tell(ev, failure)
}

// exitStatus is how the child ended, in few words.
func exitStatus(ev pool.Event) string {
	if ev.Exit.Status == "" {
		return "not started"
	}
	return ev.Exit.Status
}

// failure tells why a child ended or did not come to be, with the last lines it
// printed and a hint where there is one.
func (v *service) failure(err error) []slog.Attr {
	var stuck *process.NotReadyError
	if errors.As(err, &stuck) {
		attrs := []slog.Attr{slog.String("program", stuck.Program), slog.Any("err", stuck.Err)}
		if len(stuck.LastLines) > 0 {
			attrs = append(attrs, slog.Any("output", stuck.LastLines))
		}
		if errors.Is(err, pool.ReasonTimeout) {
			attrs = append(attrs, slog.String("hint", fmt.Sprintf("it had %v: --start-timeout gives it longer", v.config().StartTimeout)))
		}
		return attrs
	}
	var exit *process.ExitError
	if !errors.As(err, &exit) {
		return []slog.Attr{slog.String("program", v.lived().Path), slog.Any("err", unwrapStart(err))}
	}
	attrs := []slog.Attr{slog.String("program", exit.Program), slog.String("status", exit.Status)}
	if len(exit.LastLines) > 0 {
		attrs = append(attrs, slog.Any("output", exit.LastLines))
	}
	if exit.Hint != "" {
		attrs = append(attrs, slog.String("hint", exit.Hint))
	}
	if dest := v.lived().Dest; exit.PortTaken() && dest.Network == "tcp" {
		if who := portUse(dest.Port); who != "" {
			attrs = append(attrs, slog.String("holder", who))
		}
	}
	return attrs
}

// unwrapStart drops the number of the start, which has an attribute of its own.
func unwrapStart(err error) error {
	var start *pool.StartError
	if errors.As(err, &start) {
		return start.Err
	}
	return err
}

// logStatistics writes one line with everything the pool counts.
func (v *service) logStatistics() {
	s := v.pool.Snapshot()
	attrs := []slog.Attr{
		slog.String("state", s.State.String()),
		slog.Time("since", s.Since),
		slog.Int("connections", s.Connections),
		slog.Int("waiting", s.Waiting),
		slog.Uint64("served", s.Granted),
		slog.Uint64("starts", s.Starts),
		slog.Uint64("failures", s.Failures),
		slog.Int("resting", s.Resting),
		slog.Int("accepted", v.server.Connections()),
	}
	var stops []any
	for _, why := range slices.Sorted(maps.Keys(s.Stops)) {
		stops = append(stops, slog.Uint64(string(why), s.Stops[why]))
	}
	var times []any
	for state, d := range s.InState {
		times = append(times, slog.Duration(pool.State(state).String(), d))
	}
	c := v.server.Stats()
	attrs = append(attrs, slog.Group("ended",
		"closed", c.Closed, "client_reset", c.ClientReset, "upstream_reset", c.UpstreamReset, "killed", c.Killed,
		"client_left", c.ClientLeft, "refused", c.Refused, "start_failed", c.StartFailed, "drained", c.Drained,
		"turned_away", c.TurnedAway, "quiet", c.Quiet))
	if v.direct != nil {
		d := v.direct.Stats()
		attrs = append(attrs, slog.Group("direct", "connections", d.Now, "begun", d.Begun))
	}
	attrs = append(attrs, slog.Group("stops", stops...), slog.Group("time", times...))
	if s.LastError != nil {
		attrs = append(attrs, slog.String("last_error", s.LastError.Error()))
	}
	v.log.LogAttrs(context.Background(), slog.LevelInfo, msgStatistics, attrs...)
}
