package pool

import "time"

// Use is who uses a pool's newest life at one moment. It is for whoever shares
// out room among several pools: see TryStop.
type Use struct {
	Gen    uint64    // of the newest life, 0 before the first
	Kept   int       // leases of Keep on the life there is now
	Vacant time.Time // since when nobody but their holders has used that life; zero unless it takes clients and nobody does
	Mature time.Time // when a vacant life is as old as Config.MinUptime wants; zero unless vacant
}

// Use tells who uses the newest life. Hidden connections show in it as far as
// Hidden has taken a lease for them.
func (p *Pool) Use() Use {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := Use{Gen: p.gen}
	if p.run != nil {
		u.Kept = p.run.kept
	}
	if p.takesLocked() && p.waiting == 0 {
		u.Vacant = p.vacant
	}
	if !u.Vacant.IsZero() {
		u.Mature = p.run.opened.Add(p.cfg.MinUptime)
	}
	return u
}

// vacateLocked notes that somebody has left an opened life, and tells it if
// nobody but holders of Keep is there any more.
func (p *Pool) vacateLocked() {
	if p.state != Opened || p.run.leases > p.run.kept {
		return
	}
	if p.vacant.IsZero() {
		p.vacant = time.Now()
	}
	if p.waiting > 0 {
		return
	}
	select {
	case p.vacated <- struct{}{}: // never ready if it is nil
	default:
	}
}
