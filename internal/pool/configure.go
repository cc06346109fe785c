package pool

// Configure changes how the pool behaves, at once. Hidden, Notify and Vacated
// stay what they were. An idle time that runs goes on running from the moment when the
// last lease ended, and ends at once if the new one is over by then. A start
// under way keeps the start timeout that it began with. Starts that a source has
// caused count against the new rate as far as the old one had to remember them;
// whoever waits because of the old one looks again.
func (p *Pool) Configure(cfg Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cfg = cfg
	p.wakes.limit(cfg.WakeRate)
	if !p.unused.IsZero() {
		p.armLocked()
	}
	p.changeLocked()
}

// SetResource changes what the next start starts. The life there is now, ready
// or not, stays what it is until something ends it.
func (p *Pool) SetResource(res Resource) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.res = res
}
