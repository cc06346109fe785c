package main

import (
	"log/slog"
	"slices"
	"time"

	"tiproxy/internal/admin"
	"tiproxy/internal/pool"
)

// tell tells who follows what has happened to the child. failure is what the
// log says about an end that was none of ours.
func (v *service) tell(ev pool.Event, failure []slog.Attr) {
	out := admin.Event{Service: v.name, Who: ev.Who, At: time.Now()}
	if life, ok := ev.Life.(interface{ Pid() int }); ok {
		out.PID = life.Pid()
	}
	if failure != nil {
		out.Failure = failed(ev, failure)
		v.lastError.Store(out.Failure)
	}
	switch ev.Kind {
	case pool.EventStarting:
		out.Kind, out.State = admin.KindStarting, admin.StateStarting
	case pool.EventOpened:
		out.Kind, out.State, out.Took = admin.KindOpened, admin.StateOpened, admin.InSeconds(ev.Took)
	case pool.EventStartFailed:
		out.Kind = admin.KindStartFailed // shutdown follows or closed
	case pool.EventShutdown:
		out.Kind, out.State, out.Reason = admin.KindShutdown, admin.StateShutdown, string(ev.Reason)
	case pool.EventClosed:
		for _, r := range v.recorded {
			r.end()
		}
		out.Kind, out.State, out.Reason, out.Uptime = admin.KindClosed, admin.StateClosed, string(ev.Reason), admin.InSeconds(ev.Uptime)
	}
	v.journal.Tell(out)
}

// failed is what the log says about a failure, for who asks.
func failed(ev pool.Event, said []slog.Attr) *admin.Failure {
	f := &admin.Failure{At: time.Now(), Error: unwrapStart(ev.Err).Error()}
	for _, a := range said {
		switch a.Key {
		case "status", "err":
			f.Error = a.Value.String()
		case "output":
			lines, _ := a.Value.Any().([]string)
			f.Lines = slices.Clone(lines)
		case "hint":
			f.Hint = a.Value.String()
		}
	}
	return f
}

// toldHold tells that a hold has begun, or, without until, why it is over.
func (v *service) toldHold(until time.Time, why string) {
	if until.IsZero() {
		v.log.Info(msgReleased, "reason", why)
		v.journal.Tell(admin.Event{Kind: admin.KindReleased, Service: v.name, Reason: why})
		return
	}
	v.log.Info(msgHeld, "until", until)
	v.journal.Tell(admin.Event{Kind: admin.KindHeld, Service: v.name, Until: until})
}
