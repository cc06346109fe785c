package main

import (
	"context"
	"fmt"
	"net"
	"slices"

	"tiproxy/internal/config"
	"tiproxy/internal/direct"
)

// transition leads from the services that there are to those that are wanted.
// Everything that may fail is done before anything is touched.
type transition struct {
	p *program
	plan
	stays   []changed           // that go on as the services they are
	goes    []*service          // removed, or to be replaced
	dropped []*arrival          // that were still on their way
	comes   []*arrival          // added, or in somebody's place
	moves   map[string]*binding // where those of stays listen that do it somewhere else
	ready   []*service          // made of arrivals that have nobody to wait for
	handed  map[any]bool        // services and arrivals whose listeners have been taken over
}

// arrival is a service that has its address already, where clients wait, and is
// going to be started when those that are in its way have left.
type arrival struct {
	cfg    config.Service
	bound  *binding // its own
	socket *socket  // or that of the service before
	after  []*service
}

// close gives the address up.
func (a *arrival) close() {
	if a.bound != nil {
		a.bound.unlink()
		a.bound.Close()
	}
	if a.socket != nil {
		a.socket.close()
	}
}

// newTransition decides who stays.
func (p *program) newTransition(all plan) *transition {
	t := &transition{p: p, plan: all, handed: map[any]bool{}, moves: map[string]*binding{}}
	t.kept = slices.DeleteFunc(slices.Clone(all.kept), t.mend)
	for _, s := range all.removed {
		t.leaves(s.Name)
	}
	for _, c := range t.changed {
		v := p.service(c.new.Name)
		if v != nil && v.failed.Load() != nil {
			c.rebind = true
		}
		c.replace = c.replace || v != nil && p.cedes(v, c.new, all)
		if v != nil && !c.replace && !(c.rebind && (v.direct != nil || p.has(c.new))) {
			t.stays = append(t.stays, c)
			continue
		}
		t.leaves(c.new.Name)
		t.comes = append(t.comes, &arrival{cfg: c.new})
	}
	for _, s := range all.added {
		t.comes = append(t.comes, &arrival{cfg: s})
	}
	return t
}

// mend has a service that takes no clients any more listen again.
func (t *transition) mend(name string) bool {
	v := t.p.service(name)
	if v == nil || v.failed.Load() == nil {
		return false
	}
	t.changed = append(t.changed, changed{old: *v.config(), new: *v.config()})
	return true
}

// leaves notes that whoever has that name has to go.
func (t *transition) leaves(name string) {
	if v := t.p.service(name); v != nil {
		t.goes = append(t.goes, v)
	}
	for _, a := range t.p.arrivals {
		if a.cfg.Name == name {
			t.dropped = append(t.dropped, a)
		}
	}
}

// service is the one of that name, nil if there is none, or none yet.
func (p *program) service(name string) *service {
	for _, v := range p.running {
		if v.name == name {
			return v
		}
	}
	return nil
}

// has reports whether another service than s listens where s is to.
func (p *program) has(s config.Service) bool {
	return slices.ContainsFunc(p.wanted(), func(o config.Service) bool { return o.Name != s.Name && overlap(o.Bind, s.Bind) })
}

// cedes reports whether v's child is where from now on that of another service is
// to be: that one could not begin as long as the child is there.
func (p *program) cedes(v *service, s config.Service, all plan) bool {
	at := v.lived().Dest
	if overlap(s.Dest, at) {
		return false
	}
	takes := func(o config.Service) bool { return o.Name != s.Name && overlap(o.Dest, at) }
	return slices.ContainsFunc(all.added, takes) || slices.ContainsFunc(all.changed, func(c changed) bool { return takes(c.new) })
}

// overlap reports whether two cannot listen at the same time. Where a free port is
// asked for they can.
func overlap(a, b config.Addr) bool {
	if a.Network != "unix" && (a.Port == 0 || b.Port == 0) || a.Network == "" || b.Network == "" {
		return false
	}
	return config.SamePlace(a, b) || config.SamePlace(b, a)
}

// prepare does everything that may fail. Nothing of it is noticed by anybody.
func (t *transition) prepare() error {
	ctx := context.Background()
	for _, c := range t.stays {
		if !c.rebind {
			continue
		}
		v := t.p.service(c.new.Name)
		b, err := v.rebind(ctx, c.new)
		if err != nil {
			return v.named(err)
		}
		t.moves[c.new.Name] = b
	}
	for _, a := range t.comes {
		if err := t.prepareArrival(ctx, a); err != nil {
			return fmt.Errorf("service %s: %w", a.cfg.Name, err)
		}
	}
	return nil
}

func (t *transition) prepareArrival(ctx context.Context, a *arrival) (err error) {
	a.after = t.inTheWayOf(a.cfg)
	if err := t.inherit(a); err != nil {
		return err
	}
	if a.bound == nil && a.socket == nil {
		if a.bound, err = bind(ctx, a.cfg); err != nil {
			return err
		}
	}
	if len(a.after) > 0 || a.socket != nil {
		return rehearse(ctx, a.cfg)
	}
	v, err := t.p.newcomer(a)
	if err == nil {
		t.ready = append(t.ready, v)
	}
	return err
}

// inTheWayOf are the services without whose end s cannot begin.
func (t *transition) inTheWayOf(s config.Service) (all []*service) {
	for _, v := range slices.Concat(t.p.leaving, t.goes) {
		o, life := v.config(), v.lived()
		if o.Name == s.Name || overlap(o.Bind, s.Bind) || overlap(o.Dest, s.Dest) || overlap(life.Dest, s.Dest) {
			all = append(all, v)
		}
	}
	return all
}

// inherit has a take over a listener of the same address that is given up, so
// that clients find it open all the time.
func (t *transition) inherit(a *arrival) (err error) {
	same := func(o config.Service) bool {
		return o.Bind == a.cfg.Bind && (o.Name == a.cfg.Name || overlap(o.Bind, a.cfg.Bind))
	}
	for _, old := range t.dropped {
		if same(old.cfg) && !t.handed[old] {
			t.handed[old] = true
			a.bound, a.socket = old.bound, old.socket
			a.after = append(a.after, old.after...)
			return nil
		}
	}
	givers := slices.Clone(t.goes)
	for _, c := range t.stays {
		if c.rebind {
			givers = append(givers, t.p.service(c.new.Name))
		}
	}
	for _, v := range givers {
		if same(*v.config()) && !t.handed[v] && v.failed.Load() == nil {
			t.handed[v] = true
			a.socket, err = v.share()
			return err
		}
	}
	return nil
}

// newcomer makes a service of an arrival that has an address of its own.
func (p *program) newcomer(a *arrival) (*service, error) {
	v := p.newService(a.cfg)
	v.bound.Store(a.bound)
	if err := v.open(p.host); err != nil {
		p.dismiss(v)
		return nil, err
	}
	return v, nil
}

// dismiss gives up a service that has not begun, but for its address.
func (p *program) dismiss(v *service) {
	v.closeDirect()
	if p.exporter != nil && named(p.wanted(), v.name) < 0 {
		p.exporter.Forget(v.name)
	}
}

// rehearse tries whether the way that s wants for its bytes can be had, as it
// cannot be opened yet.
func rehearse(ctx context.Context, s config.Service) error {
	if s.BytePath != config.PathDirect && s.BytePath != config.PathInherit {
		return nil
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	path, err := openPath(s.BytePath, direct.Config{Listener: l.(*net.TCPListener)})
	if err != nil {
		return fmt.Errorf("--path %s cannot be had here: %w", s.BytePath, err)
	}
	path.Close()
	return nil
}

// openPath opens a way of bytes that is not the copy path.
func openPath(way config.BytePath, cfg direct.Config) (interface{ Close() }, error) {
	if way == config.PathInherit {
		return direct.Inherit(cfg)
	}
	return direct.Open(cfg)
}

// undo gives up what prepare has taken.
func (t *transition) undo() {
	for _, b := range t.moves {
		b.unlink()
		b.Close()
	}
	for _, v := range t.ready {
		t.p.dismiss(v)
	}
	for _, a := range t.comes {
		if a.bound != nil && !t.ofAnother(a) {
			a.close()
		}
		if a.socket != nil && !t.ofAnother(a) {
			a.socket.forget()
		}
	}
	t.p.share()
}

// ofAnother reports whether a's address is still that of an arrival before.
func (t *transition) ofAnother(a *arrival) bool {
	return slices.ContainsFunc(t.dropped, func(o *arrival) bool { return o.bound == a.bound && o.socket == a.socket })
}

// warn tells what may surprise about those that are new, or not what they were.
func (t *transition) warn() {
	for _, s := range t.added {
		t.p.warnAbout(s)
	}
	for _, c := range t.changed {
		t.p.warnAbout(c.new)
	}
}
