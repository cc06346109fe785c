package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"tiproxy/internal/config"
	"tiproxy/internal/direct"
	"tiproxy/internal/pool"
	"tiproxy/internal/probe"
)

// openHeir makes the listener one that the child inherits.
func (v *service) openHeir() error {
	l, ok := v.bound.Load().Listener.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("--bind is no TCP socket but %T", v.bound.Load().Listener)
	}
	heir, err := direct.Inherit(v.directConfig(l))
	if err != nil {
		return fmt.Errorf("--path inherit cannot be had here: %w", err)
	}
	v.bound.Load().Close() // the heir has a descriptor of its own
	v.heir, v.direct = heir, heir.Path
	v.log.Info(msgPath, "path", config.PathInherit)
	return nil
}

// serveHeir wakes the child for clients who wait, until ctx is done. It tells
// the error that ends it before that.
func (v *service) serveHeir(ctx context.Context) {
	defer close(v.served)
	if err := v.heir.Serve(ctx, v.wakeHeir); err != nil {
		v.fail(err)
	}
}

// wakeHeir starts the child, or waits for the one that is there. Whom it has to
// stay awake for is found out by looking: see pool.Hidden.
func (v *service) wakeHeir(ctx context.Context) (over <-chan struct{}, err error) {
	lease, err := v.member.Get(ctx, pool.Caller{Name: "a client who waits"})
	if err != nil {
		return nil, err
	}
	defer v.member.Put(lease)
	return lease.Done(), nil
}

// settleTime bounds how long a stop waits for what the child does to be noticed.
const settleTime = time.Second

// settleHeir waits until a child that has taken clients already is known to be
// opened, and is watched: a stop at that moment is to let those finish as well.
func (v *service) settleHeir() {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(settleTime); time.Now().Before(limit); <-tick.C {
		switch s := v.pool.Snapshot(); {
		case s.State == pool.Starting && v.heir.Taken():
		case s.State == pool.Opened && !v.direct.Follows(s.Gen):
		default:
			return
		}
	}
}

// drainHeir lets nobody in any more. A child that is ready goes on with those who
// wait; there is none for the others.
func (v *service) drainHeir() {
	if err := v.heir.Refuse(); err != nil {
		v.log.Warn("new clients are not kept from the child while it drains", "err", err)
	}
	<-v.served
	v.settleHeir()
	if v.pool.Snapshot().State != pool.Opened && !v.handed {
		v.heir.TurnAway()
	}
}

// endHeir deals with those who wait when there is no child any more. If another
// service is to have the listener, it gets it as good as new, with all of them.
func (v *service) endHeir() {
	if !v.handed {
		v.heir.TurnAway()
		return
	}
	err := v.heir.Renew()
	if err = errors.Join(err, v.heir.Admit()); err != nil {
		v.log.Warn("the listener may be closed to clients", "err", err)
	}
}

// destination is where the child takes its clients, for people.
func (v *service) destination() string {
	if v.heir != nil {
		return "inherited"
	}
	return v.config().Dest.String()
}

// heirProber tells when a child takes clients from the socket that it inherited.
type heirProber struct{ heir *direct.Inherited }

// Before implements process.Prober. The child finds the socket as if it were the
// first to have it.
func (h heirProber) Before(context.Context) error { return h.heir.Renew() }

// Wait implements process.Prober.
func (h heirProber) Wait(ctx context.Context, _ probe.Tree) (net.Addr, error) {
	if err := h.heir.AwaitTaken(ctx); err != nil {
		return nil, err
	}
	return h.heir.Addr(), nil
}
