package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"tiproxy/internal/config"
	"tiproxy/internal/direct"
	"tiproxy/internal/pool"
	"tiproxy/internal/probe"
)

// openHeir makes the listener one that the child inherits.
func (p *program) openHeir() error {
	l, ok := p.bound.Listener.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("--bind is no TCP socket but %T", p.bound.Listener)
	}
	heir, err := direct.Inherit(p.directConfig(l))
	if err != nil {
		return fmt.Errorf("--path inherit cannot be had here: %w", err)
	}
	p.bound.Close() // the heir has a descriptor of its own
	p.heir, p.direct = heir, heir.Path
	p.log.Info(msgPath, "path", config.PathInherit)
	return nil
}

// serveHeir wakes the child for clients who wait, until ctx is done.
func (p *program) serveHeir(ctx context.Context) {
	defer close(p.served)
	p.heir.Serve(ctx, p.wakeHeir)
}

// wakeHeir starts the child, or waits for the one that is there. Whom it has to
// stay awake for is found out by looking: see pool.Hidden.
func (p *program) wakeHeir(ctx context.Context) (over <-chan struct{}, err error) {
	lease, err := p.pool.Get(ctx, pool.Caller{Name: "a client who waits"})
	if err != nil {
		return nil, err
	}
	defer p.pool.Put(lease)
	return lease.Done(), nil
}

// settleTime bounds how long a stop waits for what the child does to be noticed.
const settleTime = time.Second

// settleHeir waits until a child that has taken clients already is known to be
// opened, and is watched: a stop at that moment is to let those finish as well.
func (p *program) settleHeir() {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(settleTime); time.Now().Before(limit); <-tick.C {
		switch s := p.pool.Snapshot(); {
		case s.State == pool.Starting && p.heir.Taken():
		case s.State == pool.Opened && !p.direct.Follows(s.Gen):
		default:
			return
		}
	}
}

// destination is where the child takes its clients, for people.
func (p *program) destination() string {
	if p.heir != nil {
		return "inherited"
	}
	return p.service.Dest.String()
}

// heirProber tells when a child takes clients from the socket that it inherited.
type heirProber struct{ heir *direct.Inherited }

// Before implements process.Prober: nothing speaks against a start.
func (heirProber) Before(context.Context) error { return nil }

// Wait implements process.Prober.
func (h heirProber) Wait(ctx context.Context, _ probe.Tree) (net.Addr, error) {
	if err := h.heir.AwaitTaken(ctx); err != nil {
		return nil, err
	}
	return h.heir.Addr(), nil
}
