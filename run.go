package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tiproxy/internal/admin"
	"tiproxy/internal/budget"
	"tiproxy/internal/config"
	"tiproxy/internal/metrics"
	"tiproxy/internal/process"
	"tiproxy/internal/stdio"
)

const (
	// tailTime is how long the last bytes may take to be acknowledged once the
	// child is gone.
	tailTime = 2 * time.Second
	// flushTime bounds the writing of what still waits for stdout and stderr.
	flushTime = time.Second
)

// program is one running tiproxy: everything that main has put together.
type program struct {
	options  options // it runs with now
	log      *slog.Logger
	out, err *stdio.Writer // stdout and stderr, shared with the children
	lines    *lines        // in front of err
	signals  *signals
	started  time.Time
	file     string // that the services come from, "" if from the command line
	adminAt  adminPlace
	admin    adminRoom
	journal  *admin.Journal // of what is told to who asks, nil if nobody may
	host     *process.Host
	ledger   *budget.Ledger    // of room
	exporter *metrics.Exporter // nil unless somebody may ask for it
	several  atomic.Bool       // there is more than one service

	hurry    context.Context // done when nobody who is connected is waited for any more
	endHurry context.CancelFunc
	failures chan failure
	reloads  chan reloadOrder
	hangups  chan struct{} // SIGHUP has come
	left     chan struct{} // a service that leaves has gone
	over     chan struct{} // closed when nothing of the above is heeded any more

	// Main alone changes what follows; others read it under mu.
	mu       sync.Mutex
	running  []*service // in the order they are configured in
	leaving  []*service // those that are not wanted any more
	arrivals []*arrival // those that have to wait until another one has left
	reloaded reloadState
}

// run carries services until it is told to stop. The error says why it cannot
// go on; it is nil after a stop that was asked for.
func run(o options) error {
	p := &program{
		options: o, file: o.file, adminAt: o.admin, signals: catchSignals(), started: time.Now(),
		failures: make(chan failure), reloads: make(chan reloadOrder), hangups: make(chan struct{}, 1),
		left: make(chan struct{}, 1), over: make(chan struct{}),
	}
	p.hurry, p.endHurry = context.WithCancel(context.Background())
	defer p.endHurry()
	if p.adminAt.at.Network != "" {
		p.journal = admin.NewJournal()
	}
	p.out = stdio.New(int(os.Stdout.Fd()), p.dropped("stdout"))
	p.err = stdio.New(int(os.Stderr.Fd()), p.dropped("stderr"))
	p.lines = &lines{w: p.err}
	if o.handler != nil {
		p.log = slog.New(o.handler(p.out))
	} else {
		p.log = newLogger(p.lines, o.format, o.level, onTerminal(os.Stderr))
	}
	p.ledger = budget.New(p.log)
	return p.main(o.unknown)
}

// services are those that there are, also those that leave and have no successor
// yet, in the order they are configured in.
func (p *program) services() []*service {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.Clone(p.running)
	for _, v := range p.leaving {
		if !slices.ContainsFunc(all, func(o *service) bool { return o.name == v.name }) {
			all = append(all, v)
		}
	}
	return all
}

// main is the program's life. Output that waits is written before it returns.
func (p *program) main(unknown []unknownEnv) error {
	defer p.flush()
	p.warn(unknown)
	if err := p.open(); err != nil {
		return err
	}
	defer p.admin.close()
	defer p.host.Close()
	defer p.closeServices()
	p.signals.watch(p.logStatistics, p.hangup())
	defer p.signals.close()

	for _, v := range p.running {
		v.start()
	}
	return p.heed()
}

// heed does what is asked for, one thing after the other, until it has stopped
// everything.
func (p *program) heed() error {
	for {
		select {
		case sig := <-p.signals.asked:
			p.stop("signal", sig.String())
			return nil
		case f := <-p.failures:
			if p.othersServe() {
				f.of.log.Error("a service cannot accept connections any more", "err", f.err)
				continue
			}
			p.stop("reason", "the listener has failed")
			return fmt.Errorf("cannot accept connections any more: %w", f.err)
		case <-p.hangups:
			p.reloadNow()
		case order := <-p.reloads:
			order.answer <- p.reloadNow()
		case <-p.left:
			p.settle()
		}
	}
}

// noteFailure hands over that a service has failed.
func (p *program) noteFailure(f failure) {
	select {
	case p.failures <- f:
	case <-p.over:
	}
}

// othersServe reports whether somebody still takes clients, or is going to.
func (p *program) othersServe() bool {
	return len(p.arrivals) > 0 || slices.ContainsFunc(p.running, func(v *service) bool { return v.failed.Load() == nil })
}

// hangup is what SIGHUP does where there is a file that people may have changed.
func (p *program) hangup() func() {
	if p.options.file == "" {
		return nil
	}
	return func() {
		select {
		case p.hangups <- struct{}{}:
		default: // one is under way that has not read the file yet
		}
	}
}

// open takes what the program needs for its whole life: the addresses first, as
// that is what most often fails.
func (p *program) open() (err error) {
	defer func() {
		if err != nil {
			p.admin.close()
			p.closeServices()
		}
	}()
	p.openMetrics()
	p.several.Store(len(p.options.services) > 1)
	for _, cfg := range p.options.services {
		v := p.newService(cfg)
		if err := v.bind(context.Background()); err != nil {
			return err
		}
		p.running = append(p.running, v)
	}
	if err := p.bindAdmin(context.Background()); err != nil {
		return err
	}
	if p.host, err = process.NewHost(process.Options{Log: p.log}); err != nil {
		return fmt.Errorf("cannot prepare for a child: %w", err)
	}
	for _, v := range p.running {
		if err := v.open(p.host); err != nil {
			p.host.Close()
			return err
		}
		v.equip()
	}
	p.share()
	if err := p.startAdmin(); err != nil {
		p.host.Close()
		return err
	}
	return nil
}

// closeServices gives up what the services still hold.
func (p *program) closeServices() {
	for _, v := range p.running {
		v.close()
	}
}

// stop ends everything in order: no new client, time for those who are there,
// then the children, then the last bytes. A second signal shortens all of it.
func (p *program) stop(key, why string) {
	p.admin.stopping.Store(true)
	p.journal.Tell(admin.Event{Kind: admin.KindStopping, Reason: why})
	close(p.over)
	p.ledger.Close()
	for _, a := range p.arrivals {
		a.close()
	}
	for _, v := range p.running {
		v.drain(key, why)
	}
	over, hastened := make(chan struct{}), make(chan struct{})
	go p.hasten(over, hastened)
	var ends sync.WaitGroup
	for _, v := range p.running {
		ends.Go(func() { v.end(p.hurry) })
	}
	ends.Wait()
	for _, v := range p.leaving {
		<-v.gone
	}
	close(over)
	<-hastened
	p.log.Info(msgStopped)
}

// hasten makes the stop immediate when a second signal comes before it is over.
func (p *program) hasten(over <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	select {
	case <-over:
	case <-p.signals.now:
		for _, v := range slices.Concat(p.running, p.leaving) {
			v.kill()
		}
		p.endHurry()
	}
}

// warn tells at start what may surprise later.
func (p *program) warn(unknown []unknownEnv) {
	for _, u := range unknown {
		if u.meant == "" {
			p.log.Warn("unknown environment variable", "name", u.name)
		} else {
			p.log.Warn("unknown environment variable", "name", u.name, "did_you_mean", u.meant)
		}
	}
	for _, cfg := range p.options.services {
		p.warnAbout(cfg)
	}
	for _, left := range process.Escaped() {
		p.log.Warn("a process of an earlier tiproxy still lives", "pid", left.PID, "name", left.Name, "life", left.Mark,
			"hint", fmt.Sprintf("end it with: kill %d", left.PID))
	}
}

// warnAbout tells what may surprise about a service.
func (p *program) warnAbout(cfg config.Service) {
	if cfg.Quiet > 0 && cfg.QuietPolicy == config.QuietKeep {
		p.log.Warn("--quiet changes nothing as long as --quiet-policy is keep", "hint", "add --quiet-policy close or ignore")
	}
	p.warnChangeable(cfg)
}

// logStatistics writes one line for each service.
func (p *program) logStatistics() {
	for _, v := range p.services() {
		v.logStatistics()
	}
}

// dropped returns what is to be done when output had to be dropped because
// nobody reads the stream.
func (p *program) dropped(stream string) func(int64) {
	return func(n int64) { p.log.Warn(msgDropped, "stream", stream, "bytes", n) }
}

// flush writes what still waits, for a bounded time.
func (p *program) flush() {
	ctx, cancel := context.WithTimeoutCause(context.Background(), flushTime, errors.New("nobody reads the output"))
	defer cancel()
	for _, v := range p.services() {
		v.flush()
	}
	// What cannot be written by then is lost: there is nobody to tell.
	_ = p.out.Flush(ctx)
	p.lines.flush()
	_ = p.err.Flush(ctx)
}
