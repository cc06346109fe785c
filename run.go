package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"tiproxy/internal/admin"
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
	configs  []config.Service
	file     string // they come from, "" for the command line
	log      *slog.Logger
	out, err *stdio.Writer // stdout and stderr, shared with the children
	lines    *lines        // in front of err
	signals  *signals
	started  time.Time
	adminAt  adminPlace
	admin    adminRoom
	journal  *admin.Journal // of what is told to who asks, nil if nobody may
	host     *process.Host
	services []*service
	exporter *metrics.Exporter // nil unless somebody may ask for it
}

// run carries services until it is told to stop. The error says why it cannot
// go on; it is nil after a stop that was asked for.
func run(o options) error {
	p := &program{
		configs: o.services, file: o.file, adminAt: o.admin, signals: catchSignals(),
		started: time.Now(),
	}
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
	return p.main(o.unknown)
}

// alone reports whether the program has one service, which then needs no name.
func (p *program) alone() bool { return len(p.configs) == 1 }

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

	failed := make(chan error, len(p.services))
	for _, v := range p.services {
		v.start(failed)
	}
	for going := len(p.services); ; going-- {
		select {
		case sig := <-p.signals.asked:
			p.stop("signal", sig.String())
			return nil
		case err := <-failed:
			if going > 1 {
				p.log.Error("a service cannot accept connections any more", "err", err)
				continue // the others can
			}
			p.stop("reason", "the listener has failed")
			return fmt.Errorf("cannot accept connections any more: %w", err)
		}
	}
}

// hangup is what SIGHUP does: nothing but a line where there is a file that
// people may have changed, which is read at the start only.
func (p *program) hangup() func() {
	if p.file == "" {
		return nil
	}
	return func() {
		p.log.Warn("the configuration is not read again while tiproxy runs", "file", p.file, "hint", "restart tiproxy to have it take what has changed")
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
	for _, cfg := range p.configs {
		v := p.newService(cfg)
		if err := v.bind(context.Background()); err != nil {
			return err
		}
		p.services = append(p.services, v)
	}
	if err := p.bindAdmin(context.Background()); err != nil {
		return err
	}
	if p.host, err = process.NewHost(process.Options{Log: p.log}); err != nil {
		return fmt.Errorf("cannot prepare for a child: %w", err)
	}
	for _, v := range p.services {
		if err := v.open(p.host); err != nil {
			p.host.Close()
			return err
		}
	}
	if err := p.startAdmin(); err != nil {
		p.host.Close()
		return err
	}
	return nil
}

// closeServices gives up what the services still hold.
func (p *program) closeServices() {
	for _, v := range p.services {
		v.close()
	}
}

// stop ends everything in order: no new client, time for those who are there,
// then the children, then the last bytes. A second signal shortens all of it.
func (p *program) stop(key, why string) {
	p.admin.stopping.Store(true)
	p.journal.Tell(admin.Event{Kind: admin.KindStopping, Reason: why})
	for _, v := range p.services {
		v.drain(key, why)
	}
	hurry, cancel := context.WithCancel(context.Background())
	defer cancel()
	over, hurried := make(chan struct{}), make(chan struct{})
	go p.hurry(cancel, over, hurried)
	var ends sync.WaitGroup
	for _, v := range p.services {
		ends.Go(func() { v.end(hurry) })
	}
	ends.Wait()
	close(over)
	<-hurried
	p.log.Info(msgStopped)
}

// hurry makes the stop immediate when a second signal comes before it is over.
func (p *program) hurry(endDrain func(), over <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	select {
	case <-over:
	case <-p.signals.now:
		for _, v := range p.services {
			v.kill()
		}
		endDrain()
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
	for _, cfg := range p.configs {
		if cfg.Quiet > 0 && cfg.QuietPolicy == config.QuietKeep {
			p.log.Warn("--quiet changes nothing as long as --quiet-policy is keep", "hint", "add --quiet-policy close or ignore")
		}
		p.warnChangeable(cfg)
	}
	for _, left := range process.Escaped() {
		p.log.Warn("a process of an earlier tiproxy still lives", "pid", left.PID, "name", left.Name, "life", left.Mark,
			"hint", fmt.Sprintf("end it with: kill %d", left.PID))
	}
}

// logStatistics writes one line for each service.
func (p *program) logStatistics() {
	for _, v := range p.services {
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
	for _, v := range p.services {
		v.flush()
	}
	// What cannot be written by then is lost: there is nobody to tell.
	_ = p.out.Flush(ctx)
	p.lines.flush()
	_ = p.err.Flush(ctx)
}
