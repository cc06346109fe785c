package pool

import (
	"context"
	"time"
)

// Stop stops the life that exists now, and returns when everything of it is
// gone, however it came to that, and its end was told. It does nothing when
// there is none. It may be called any number of times, at any moment.
//
// An opened life takes nobody from that moment on. Leases, hidden connections
// and holds of Keep included, may be used on until ctx is done; then, or as
// soon as there is none but resting ones, the life is stopped, which takes as
// long as the resource's own stop. A start is given up. Nobody is lost by it:
// whoever waits then, and whoever comes meanwhile, waits on and is served by the
// next life, which is started for him as soon as this one is gone.
func (p *Pool) Stop(ctx context.Context, why Reason) {
	p.mu.Lock()
	r := p.run
	retired := false // by this call
	for r != nil && p.run == r {
		if p.state == Starting {
			p.leaveLocked(why)
		}
		if p.state != Opened {
			p.waitLocked(context.Background(), time.Time{}) // bounded: the life is being stopped
			continue
		}
		p.partLocked(why)
		switch {
		case ctx.Err() != nil || r.leases == 0 && (r.looked || p.hidden == nil):
			p.leaveLocked(r.parting)
		case p.hidden != nil && !r.asked && !p.retiring:
			retired = true
			p.retireLocked()
		default:
			p.waitLocked(ctx, time.Time{})
		}
	}
	p.mu.Unlock()
	if retired {
		p.hidden.Return(r.gen)
		p.endRetirement()
	}
	if r != nil {
		<-r.told // bounded: Notify does not block
	}
}

// partLocked lets nobody use the opened life any more who does not already.
func (p *Pool) partLocked(why Reason) {
	if p.run.parting == "" {
		p.run.parting = why
		p.disarmLocked()
	}
}

// retireLocked keeps hidden clients from a parting life, and has a lease taken
// for those that are there. Until the life is gone they are not let in again.
func (p *Pool) retireLocked() {
	r := p.run
	p.retiring, r.asked = true, true
	p.mu.Unlock()
	p.hidden.Retire(r.gen) // whether somebody is there, the lease tells
	p.mu.Lock()
	r.looked = true
	p.changeLocked()
}

// TryStop stops the life if nobody uses it at this moment: it is opened, there
// is no lease but resting ones, nobody waits, it is as old as Config.MinUptime
// wants, and Hidden, if it can be asked, knows of nobody. That is the decision
// of the idle timer, only earlier, and one step towards clients like that one.
// Otherwise everything stays as it is. TryStop waits for Hidden at most. gone,
// which is nil unless ok, is closed when everything of the life is gone and its
// end was told.
func (p *Pool) TryStop(why Reason) (gone <-chan struct{}, ok bool) {
	p.mu.Lock()
	r := p.run
	p.mu.Unlock()
	if r == nil || !p.goOn(&leaving{pool: p, run: r, why: why}) {
		return nil, false
	}
	return r.told, true
}
