package main

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"tiproxy/internal/admin"
	"tiproxy/internal/budget"
	"tiproxy/internal/config"
	"tiproxy/internal/pool"
)

// api shows the program's services to who asks, and steers them for him. It is
// the admin room's Services and Program.
type api struct{ p *program }

// Services implements admin.Services.
func (a api) Services() []admin.Service {
	var all []admin.Service
	queued := a.p.queued()
	for _, v := range a.p.services() {
		s := v.show()
		s.Waiting += queued[s.Name]
		all = append(all, s)
	}
	slices.SortFunc(all, func(x, y admin.Service) int { return cmp.Compare(x.Name, y.Name) })
	return all
}

func (a api) find(name string) (*service, error) {
	all := a.p.services()
	i := slices.IndexFunc(all, func(v *service) bool { return v.name == name })
	if i < 0 {
		return nil, admin.ErrUnknown
	}
	return all[i], nil
}

// Connections implements admin.Services.
func (a api) Connections(name string, limit int) ([]admin.Connection, int, error) {
	v, err := a.find(name)
	if err != nil {
		return nil, 0, err
	}
	list := v.conns()
	return list[:min(limit, len(list))], max(len(list), v.connections()), nil
}

// Output implements admin.Services.
func (a api) Output(name string) (admin.Output, error) {
	v, err := a.find(name)
	if err != nil {
		return nil, err
	}
	return printed{&v.printed}, nil
}

// Do implements admin.Services.
func (a api) Do(ctx context.Context, name string, o admin.Order) error {
	v, err := a.find(name)
	if err != nil {
		return err
	}
	if a.p.admin.stopping.Load() {
		return refusal(pool.ErrShutdown)
	}
	switch o.Verb {
	case admin.Start:
		err = v.wake(ctx)
	case admin.Hold:
		err = v.holds.hold(ctx, o.For)
	case admin.Release:
		v.holds.release("asked for")
	case admin.Stop:
		v.sleep()
	}
	return refusal(err)
}

// refusal is what somebody is told whose order could not be carried out.
func refusal(err error) error {
	var failed *pool.StartError
	var full *budget.NoRoomError
	switch {
	case errors.As(err, &full):
		return &admin.Problem{Status: http.StatusServiceUnavailable, Text: err.Error()}
	case errors.Is(err, pool.ErrShutdown):
		return &admin.Problem{Status: http.StatusServiceUnavailable, Text: err.Error()}
	case errors.As(err, &failed):
		return &admin.Problem{Status: http.StatusBadGateway, Text: "the child could not be started: " + failed.Err.Error()} // with the last line and a hint
	}
	return err
}

// Health implements admin.Program. The children have no part in it.
func (a api) Health() error {
	if a.p.admin.stopping.Load() {
		return errStopping
	}
	return nil
}

// Ready implements admin.Program.
func (a api) Ready() error {
	errs := []error{a.Health()}
	for _, v := range a.p.services() {
		if why := v.failed.Load(); why != nil {
			errs = append(errs, v.named(errors.New(*why)))
		}
	}
	return errors.Join(errs...)
}

// Reload implements admin.Program.
func (a api) Reload(ctx context.Context) (admin.Reloaded, error) {
	did, err := a.p.reload(ctx)
	switch {
	case err == nil:
		return admin.Reloaded{Added: did.added, Changed: did.changed, Removed: did.removed, Unchanged: did.kept}, nil
	case errors.Is(err, errNoFile):
		return admin.Reloaded{}, &admin.Problem{Status: http.StatusConflict, Text: err.Error(), Hint: "tiproxy run has one"}
	case errors.Is(err, errStopping):
		return admin.Reloaded{}, &admin.Problem{Status: http.StatusServiceUnavailable, Text: err.Error()}
	case ctx.Err() != nil:
		return admin.Reloaded{}, err
	}
	return admin.Reloaded{}, &admin.Problem{
		Status: http.StatusUnprocessableEntity, Text: strings.Join(errTexts(err), "\n"), Hint: "everything stays as it was",
	}
}

// show is a service as people see it.
func (v *service) show() admin.Service {
	cfg := v.config()
	s, past := v.pool.Snapshot(), v.pool.History()
	up, down := v.server.Carried()
	out := admin.Service{
		Name: v.name, State: s.State.String(), Since: s.Since, Bind: v.bound.Load().address(), Dest: cfg.Dest.String(), Group: cfg.Group,
		Program: filepath.Base(cfg.Path), Path: v.way(),
		Connections: v.connections(), Waiting: s.Waiting, Resting: s.Resting,
		Served: s.Granted, Starts: s.Starts, Failures: s.Failures, BytesUp: up, BytesDown: down,
		LastError: v.lastError.Load(), Draining: string(s.Parting), HeldUntil: v.holds.until(), IdleDeadline: s.IdleEnd, CountingSince: v.since,
		Seconds: admin.InState{
			Closed: admin.InSeconds(s.InState[pool.Closed]), Starting: admin.InSeconds(s.InState[pool.Starting]),
			Opened: admin.InSeconds(s.InState[pool.Opened]), Shutdown: admin.InSeconds(s.InState[pool.Shutdown]),
		},
	}
	if v.direct != nil {
		out.Served += v.direct.Stats().Begun
	}
	if why := v.failed.Load(); why != nil {
		out.Failed = *why
	}
	if life, ok := s.Life.(interface{ Pid() int }); ok {
		out.PID = life.Pid()
	}
	for _, c := range past.Changes {
		change := admin.Change{At: c.At, State: c.State.String(), Reason: string(c.Reason)}
		if c.State == pool.Starting {
			change.Who = c.Who
		}
		out.Timeline = append(out.Timeline, change)
	}
	for _, c := range past.Starts {
		out.ColdStarts = append(out.ColdStarts, admin.ColdStart{At: c.At, Who: c.Who, Took: admin.InSeconds(c.Took), OK: c.Err == nil})
	}
	return out
}

// way is how bytes get to the child.
func (v *service) way() string {
	switch {
	case v.heir != nil:
		return string(config.PathInherit)
	case v.direct != nil:
		return string(config.PathDirect)
	}
	return string(config.PathCopy)
}

// wake starts the child as a client does, and waits until it is ready.
func (v *service) wake(ctx context.Context) error {
	lease, err := v.member.Keep(ctx, pool.Caller{Name: "tiproxy start"})
	if err != nil {
		return err
	}
	v.member.Put(lease)
	return nil
}

// sleep lets connections finish for the drain timeout, stops the child and
// waits until nothing of it is left. The next client wakes it.
func (v *service) sleep() {
	v.holds.release("stopped")
	drain, cancel := context.WithTimeout(context.Background(), v.config().DrainTimeout)
	defer cancel()
	v.pool.Stop(drain, pool.ReasonAsked)
}

// conns are the connections that can be listed, the oldest first. Those that the
// kernel leads to the child by itself are only counted.
func (v *service) conns() (all []admin.Connection) {
	for _, c := range v.server.Conns() {
		all = append(all, admin.Connection{
			Peer: c.Client, Since: c.Since, Waiting: c.Waiting, Resting: c.Resting, BytesUp: c.Up, BytesDown: c.Down,
		})
	}
	return all
}
