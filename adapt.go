package main

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"tiproxy/internal/config"
)

// carryOut does what was prepared. Nothing of it can fail.
func (t *transition) carryOut(wanted []config.Service) {
	for _, v := range t.goes {
		v.depart(t.handed[v])
	}
	for _, c := range t.stays {
		v := t.p.service(c.new.Name)
		v.adapt(c, t.moves[c.new.Name], t.handed[v])
	}
	for _, a := range t.dropped {
		if !t.handed[a] {
			a.close()
		}
	}
	for _, v := range t.ready {
		v.equip()
	}
	t.enter(wanted)
	t.p.share()
	for _, name := range t.kept {
		if v := t.p.service(name); v != nil {
			v.reshare(wanted[named(wanted, name)].MaxConnections)
		}
	}
	for _, v := range t.ready {
		v.start()
	}
	for _, v := range t.goes {
		go v.leave(t.p.hurry, t.p.left)
	}
	t.p.settle()
}

// enter makes the lists of services what they are from now on.
func (t *transition) enter(wanted []config.Service) {
	p := t.p
	p.mu.Lock()
	defer p.mu.Unlock()
	goes := func(v *service) bool { return slices.Contains(t.goes, v) }
	p.running = arranged(append(slices.DeleteFunc(slices.Clone(p.running), goes), t.ready...), wanted)
	p.leaving = append(slices.Clone(p.leaving), t.goes...)
	dropped := func(a *arrival) bool { return slices.Contains(t.dropped, a) }
	p.arrivals = slices.DeleteFunc(slices.Clone(p.arrivals), dropped)
	for _, a := range t.comes {
		if len(a.after) > 0 || a.socket != nil {
			p.arrivals = append(p.arrivals, a)
		}
	}
	p.several.Store(len(p.running)+len(p.leaving)+len(p.arrivals) > 1)
}

// arranged puts services into the order of their settings.
func arranged(all []*service, wanted []config.Service) []*service {
	slices.SortStableFunc(all, func(a, b *service) int { return named(wanted, a.name) - named(wanted, b.name) })
	return all
}

// summary is what the transition changes.
func (t *transition) summary() reloaded {
	out := reloaded{added: []string{}, changed: []string{}, removed: []string{}, kept: t.kept}
	for _, s := range t.added {
		out.added = append(out.added, s.Name)
	}
	for _, c := range t.changed {
		out.changed = append(out.changed, c.new.Name)
	}
	for _, s := range t.removed {
		out.removed = append(out.removed, s.Name)
	}
	return out
}

// settle forgets who has left, and starts those who have waited for that.
func (p *program) settle() {
	p.mu.Lock()
	all := p.leaving
	p.leaving = slices.DeleteFunc(slices.Clone(all), (*service).isGone)
	p.mu.Unlock()
	p.forget(all)
	for _, a := range slices.Clone(p.arrivals) {
		if a.after = slices.DeleteFunc(a.after, (*service).isGone); len(a.after) == 0 {
			p.arrive(a)
		}
	}
	p.mu.Lock()
	p.several.Store(len(p.running)+len(p.leaving)+len(p.arrivals) > 1)
	p.mu.Unlock()
}

// forget drops the series of services that have gone and have no successor.
func (p *program) forget(all []*service) {
	wanted := p.wanted()
	for _, v := range all {
		if p.exporter != nil && v.isGone() && named(wanted, v.name) < 0 {
			p.exporter.Forget(v.name)
		}
	}
}

// arrive starts a service that had to wait.
func (p *program) arrive(a *arrival) {
	v, err := p.welcome(a)
	if err == nil {
		v.equip()
	}
	p.mu.Lock()
	p.arrivals = slices.DeleteFunc(slices.Clone(p.arrivals), func(o *arrival) bool { return o == a })
	if err == nil {
		p.running = arranged(append(slices.Clone(p.running), v), p.options.services)
	}
	p.mu.Unlock()
	if err != nil {
		p.log.Error("a service cannot begin", "service", a.cfg.Name, "err", err, "hint", "it is tried again with the next reload")
		p.share() // who needs it does not wait for it any more
		return
	}
	p.share()
	v.start()
}

func (p *program) welcome(a *arrival) (*service, error) {
	if a.socket != nil {
		b, err := a.socket.listen()
		if err != nil {
			return nil, err
		}
		a.bound, a.socket = b, nil
	}
	v, err := p.newcomer(a)
	if err != nil {
		a.close()
	}
	return v, err
}

// adapt has the service be what is wanted of it from now on. at is where it is to
// listen instead, nil if it stays where it is. handed says that somebody else
// listens where it did.
func (v *service) adapt(c changed, at *binding, handed bool) {
	v.cfg.Store(&c.new)
	v.next.SetStop(c.new.StopSignal, c.new.StopTimeout)
	if living := v.newest.Load(); living != nil {
		living.SetStop(c.new.StopSignal, c.new.StopTimeout)
	}
	if c.nextStart {
		v.pool.SetResource(v.newStarter())
	}
	v.pool.Configure(v.poolConfig())
	if c.old.Logs != c.new.Logs {
		v.keepLogs(c.new.Logs)
	}
	v.tune()
	if v.direct != nil {
		v.direct.SetIdle(c.new.Idle)
	}
	v.log.Info(msgChanged, "takes_effect", c.when())
	if at != nil {
		v.move(at, handed)
	}
}

// reshare gives the service another share of the connections that the program
// can hold.
func (v *service) reshare(most int) {
	cfg := *v.config()
	if cfg.MaxConnections != most {
		cfg.MaxConnections = most
		v.cfg.Store(&cfg)
		v.tune()
	}
}

// when is from when on what has changed can be had, for people.
func (c change) when() string {
	var all []string
	if c.live || c.rebind {
		all = append(all, "now")
	}
	if c.nextStart {
		all = append(all, "at the child's next start")
	}
	return strings.Join(all, " and ")
}

// move has the service take clients somewhere else. Those that it has stay.
func (v *service) move(at *binding, handed bool) {
	old := v.bound.Swap(at)
	v.failed.Store(nil)
	go v.serve(at.Listener)
	v.logListening()
	if !handed { // else it is open to those who come
		old.unlink()
		takeTheRest(old.Listener)
	}
	v.server.Unlisten(old.Listener)
}

// depart ends the taking of clients for a service that leaves the program. If its
// listener is handed on, those who come now wait for whoever gets it.
func (v *service) depart(handed bool) {
	v.handed = handed
	v.holds.close()
	b := v.bound.Load()
	if handed {
		b.path = "" // somebody else's from now on
	}
	b.unlink()
	v.endServe()
	if v.heir == nil {
		v.server.Unlisten(b.Listener)
	}
	v.log.Info(msgLeaving, "connections", v.connections(), "drain_timeout", v.config().DrainTimeout)
}

// leave ends a service that has departed, and says so. Clients that it has, those
// that wait included, have the drain timeout, unless hurry is done before.
func (v *service) leave(hurry context.Context, left chan<- struct{}) {
	drain, cancel := context.WithTimeout(hurry, v.config().DrainTimeout)
	defer cancel()
	if v.heir != nil {
		v.drainHeir()
	}
	v.drainDirect()
	// Nobody is told that there is nothing for him before the time is over.
	_ = v.server.Wait(drain)
	v.server.Drain()
	v.pool.Shutdown(drain)
	if v.heir != nil {
		v.endHeir()
	}
	v.finish()
	v.close()
	v.log.LogAttrs(context.Background(), slog.LevelInfo, msgGone)
	close(v.gone)
	select {
	case left <- struct{}{}:
	default: // main is going to look anyway
	}
}

func (v *service) isGone() bool {
	select {
	case <-v.gone:
		return true
	default:
		return false
	}
}
