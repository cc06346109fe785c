package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"tiproxy/internal/config"
	"tiproxy/internal/direct"
	"tiproxy/internal/pool"
	"tiproxy/internal/process"
	"tiproxy/internal/proxy"
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
	service  config.Service
	log      *slog.Logger
	out, err *stdio.Writer // stdout and stderr, shared with the child
	lines    *lines        // in front of err
	signals  *signals
	bound    *binding
	adminAt  config.Addr
	admin    adminRoom
	host     *process.Host
	direct   *direct.Path      // nil on the copy path
	heir     *direct.Inherited // nil unless the child inherits the listener; direct is then part of it
	endServe context.CancelFunc
	served   chan struct{} // closed when serve has ended
	pool     *pool.Pool
	server   *proxy.Server
}

// run carries a service until it is told to stop. The error says why it cannot
// go on; it is nil after a stop that was asked for.
func run(o options) error {
	p := &program{service: o.service, adminAt: o.admin, signals: catchSignals()}
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

// main is the program's life. Output that waits is written before it returns.
func (p *program) main(unknown []unknownEnv) error {
	defer p.flush()
	p.warn(unknown)
	if err := p.open(); err != nil {
		return err
	}
	defer p.admin.close()
	defer p.host.Close()
	defer p.closeDirect()
	p.signals.watch(p.logStatistics)
	defer p.signals.close()

	failed := make(chan error, 1)
	p.startServing(failed)
	p.log.Info(msgListening, "bind", p.bound.address(), "dest", p.destination(), "program", p.service.Path)
	p.noteExposure()
	select {
	case sig := <-p.signals.asked:
		p.stop("signal", sig.String())
		return nil
	case err := <-failed:
		p.stop("reason", "the listener has failed")
		return fmt.Errorf("cannot accept connections any more: %w", err)
	}
}

// open takes what the program needs for its whole life: the address first, as
// that is what most often fails.
func (p *program) open() error {
	bound, err := bind(context.Background(), p.service)
	if err != nil {
		return err
	}
	p.bound = bound
	if err := p.openAdmin(context.Background()); err != nil {
		p.closeBound()
		return err
	}
	p.host, err = process.NewHost(process.Options{Log: p.log})
	if err != nil {
		p.admin.close()
		p.closeBound()
		return fmt.Errorf("cannot prepare for a child: %w", err)
	}
	if err := p.openDirect(); err != nil {
		p.host.Close()
		p.admin.close()
		p.closeBound()
		return err
	}
	p.pool = p.newPool()
	p.server = p.newServer()
	return nil
}

// closeBound undoes bind for a program that cannot go on.
func (p *program) closeBound() {
	p.bound.unlink()
	p.bound.Close()
}

// stop ends everything in order: no new client, time for those who are there,
// then the child, then the last bytes. A second signal shortens all of it.
func (p *program) stop(key, why string) {
	p.admin.stopping.Store(true)
	p.bound.unlink()
	p.stopServing()
	p.drainDirect()
	p.server.Drain()
	p.log.Info(msgStopping, key, why, "connections", p.connections(),
		"drain_timeout", p.service.DrainTimeout, "hint", "a second signal ends it now")
	drain, cancel := context.WithTimeout(context.Background(), p.service.DrainTimeout)
	defer cancel()
	over := make(chan struct{})
	hurried := make(chan struct{})
	go p.hurry(cancel, over, hurried)
	p.pool.Shutdown(drain)
	tail, cancelTail := context.WithTimeout(context.Background(), tailTime)
	defer cancelTail()
	if p.server.Wait(tail) != nil {
		p.server.Abandon()
	}
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
		p.server.Reset()
		p.pool.Kill()
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
	if p.service.Quiet > 0 && p.service.QuietPolicy == config.QuietKeep {
		p.log.Warn("--quiet changes nothing as long as --quiet-policy is keep", "hint", "add --quiet-policy close or ignore")
	}
	p.warnChangeable()
	for _, left := range process.Escaped() {
		p.log.Warn("a process of an earlier tiproxy still lives", "pid", left.PID, "name", left.Name, "life", left.Mark,
			"hint", fmt.Sprintf("end it with: kill %d", left.PID))
	}
}

// noteExposure says once what makes a child that is taken over, or that trusts
// the wrong clients, dangerous: that it is root; and that it cannot tell near
// from far any more, so that one that trusts local connections trusts everybody.
func (p *program) noteExposure() {
	if u := p.service.User; os.Geteuid() == 0 && (u == nil || u.UID == 0) {
		p.log.Info("the child is started as root", "hint", "unless it changes its user by itself, --user gives it another one")
	}
	at, ok := p.bound.Addr().(*net.TCPAddr)
	if !ok || at.IP.IsLoopback() || p.heir != nil {
		return
	}
	if ip := net.ParseIP(p.service.Dest.Host); p.service.Dest.Network == "unix" || p.service.Dest.Host == "localhost" || ip != nil && ip.IsLoopback() {
		p.log.Info("clients of other machines will look local to the child", "bind", p.bound.address())
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
	// What cannot be written by then is lost: there is nobody to tell.
	_ = p.out.Flush(ctx)
	p.lines.flush()
	_ = p.err.Flush(ctx)
}
