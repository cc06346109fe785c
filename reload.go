package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"tiproxy/internal/admin"
	"tiproxy/internal/config"
)

var errNoFile = errors.New("there is no configuration file to read again: tiproxy run has one")

// reloaded is what a reload has changed, by the names of services.
type reloaded struct{ added, changed, removed, kept []string }

// reloadState is what has become of all reloads so far.
type reloadState struct {
	ok, failed uint64
	at         time.Time // the newest one
	err        error     // of the newest one
	taken      time.Time // the newest good one
}

// reloadOrder is somebody who waits for a reload.
type reloadOrder struct{ answer chan reloadAnswer }

type reloadAnswer struct {
	did reloaded
	err error
}

// reload reads the file again and has the services be what it says. Any error but
// ctx's means that nothing has changed.
func (p *program) reload(ctx context.Context) (reloaded, error) {
	if p.file == "" {
		return reloaded{}, errNoFile
	}
	order := reloadOrder{make(chan reloadAnswer, 1)}
	select {
	case p.reloads <- order:
	case <-p.over:
		return reloaded{}, errStopping
	case <-ctx.Done():
		return reloaded{}, context.Cause(ctx)
	}
	select {
	case a := <-order.answer:
		return a.did, a.err
	case <-ctx.Done():
		return reloaded{}, context.Cause(ctx)
	}
}

// lastReload is what has become of the reloads so far.
func (p *program) lastReload() reloadState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reloaded
}

// reloadNow is reload for main, which does one thing at a time.
func (p *program) reloadNow() reloadAnswer {
	did, err := p.readAgain()
	now := time.Now()
	p.mu.Lock()
	r := &p.reloaded
	r.at, r.err = now, err
	if err == nil {
		r.ok++
		r.taken = now
	} else {
		r.failed++
	}
	p.mu.Unlock()
	if err != nil {
		p.journal.Tell(admin.Event{Kind: admin.KindReloadFailed, At: now, Failure: &admin.Failure{At: now, Error: strings.Join(errTexts(err), "\n")}})
		p.log.Error(msgReloadFailed, "file", p.options.file, "err", errTexts(err), "hint", "everything stays as it is")
	} else {
		p.journal.Tell(admin.Event{Kind: admin.KindReloaded, At: now})
		p.log.Info(msgReloaded, "file", p.options.file,
			"added", did.added, "changed", did.changed, "removed", did.removed, "unchanged", len(did.kept))
	}
	return reloadAnswer{did, err}
}

// errTexts are the mistakes that an error joins, one by one.
func errTexts(err error) (all []string) {
	var usage *usageError
	if errors.As(err, &usage) {
		err = usage.Unwrap()
	}
	for _, one := range split(err) {
		all = append(all, one.Error())
	}
	return all
}

// readAgain checks the whole file, then everything that may fail, and only then
// changes anything.
func (p *program) readAgain() (reloaded, error) {
	o, err := readFile(p.options.file, p.options.ports)
	if err != nil {
		return reloaded{}, err
	}
	t := p.newTransition(changes(p.wanted(), o.services))
	if err := t.prepare(); err != nil {
		t.undo()
		return reloaded{}, err
	}
	p.warnFixed(o)
	t.warn()
	o.admin, o.format, o.level = p.options.admin, p.options.format, p.options.level
	p.options = o
	t.carryOut(o.services)
	o.ports.keep(o.services)
	return t.summary(), nil
}

// wanted is what all services are to be, also those that are still on their way.
func (p *program) wanted() (all []config.Service) {
	for _, v := range p.running {
		all = append(all, *v.config())
	}
	for _, a := range p.arrivals {
		all = append(all, a.cfg)
	}
	return all
}

// warnFixed tells of settings that are taken at the start only.
func (p *program) warnFixed(o options) {
	for name, differs := range map[string]bool{
		"admin": o.admin != p.options.admin, "log-format": o.format != p.options.format, "log-level": o.level != p.options.level,
	} {
		if differs {
			p.log.Warn("a setting is taken at the start only", "setting", name, "hint", "restart tiproxy to have it take what has changed")
		}
	}
}
