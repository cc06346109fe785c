package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"tiproxy/internal/admin"
	"tiproxy/internal/config"
	"tiproxy/internal/direct"
	"tiproxy/internal/metrics"
	"tiproxy/internal/output"
	"tiproxy/internal/pool"
	"tiproxy/internal/process"
	"tiproxy/internal/proxy"
)

// service is one service of the program: where its clients come in, and what
// they are led to.
type service struct {
	cfg  config.Service
	log  *slog.Logger
	host *process.Host // shared by all services

	out, err io.Writer        // where the child's output goes
	printed  output.Ring      // what of it is remembered for who asks
	recorded []*recorder      // in front of out and err, if somebody may ask
	prefixes []*output.Prefix // in front of them, if several services share them
	times    metrics.Times    // that nobody else keeps
	starts   atomic.Uint64    // that ended with a child that was ready
	light    *time.Timer      // see lighten; used by the pool's Notify, and after its end

	bound    *binding
	direct   *direct.Path      // nil on the copy path
	heir     *direct.Inherited // nil unless the child inherits the listener; direct is then part of it
	pool     *pool.Pool
	server   *proxy.Server
	endServe context.CancelFunc
	served   chan struct{} // closed when serve has ended

	// What people are shown and have asked for.
	since     time.Time // when counting began
	journal   *admin.Journal
	holds     holds
	failed    atomic.Pointer[string]        // why it takes no clients any more
	lastError atomic.Pointer[admin.Failure] // why the child failed last
}

// newService returns a service of p that has nothing yet.
func (p *program) newService(cfg config.Service) *service {
	v := &service{cfg: cfg, log: p.log, out: p.out, err: (*pieces)(p.lines), since: time.Now(), journal: p.journal}
	if p.exporter != nil {
		v.times = p.exporter.Service(cfg.Name)
	}
	if !p.alone() {
		v.log = p.log.With("service", cfg.Name)
		stdout, stderr := output.NewPrefix(p.out, cfg.Name), output.NewPrefix(p.lines, cfg.Name)
		v.out, v.err, v.prefixes = stdout, stderr, []*output.Prefix{stdout, stderr}
	}
	if p.adminAt.at.Network != "" {
		v.record()
	}
	v.holds.keep = func(ctx context.Context) (*pool.Lease, error) {
		return v.pool.Keep(ctx, pool.Caller{Name: "tiproxy hold"})
	}
	v.holds.put = func(l *pool.Lease) { v.pool.Put(l) }
	v.holds.told = v.toldHold
	return v
}

// bind takes the service's address.
func (v *service) bind(ctx context.Context) error {
	bound, err := bind(ctx, v.cfg)
	if err != nil {
		return v.named(err)
	}
	v.bound = bound
	return nil
}

// open takes what the service needs beside its address.
func (v *service) open(host *process.Host) error {
	v.host = host
	if err := v.openDirect(); err != nil {
		return v.named(err)
	}
	v.pool = v.newPool()
	v.server = v.newServer()
	return nil
}

// lightAfter is how long nothing of a child has existed when memory is given back.
const lightAfter = 2 * time.Second

// lighten gives memory that the last life has needed back to the system, unless
// there is soon another one: who sleeps is to be small.
func (v *service) lighten() { v.light = time.AfterFunc(lightAfter, debug.FreeOSMemory) }

// stayHeavy undoes lighten.
func (v *service) stayHeavy() {
	if v.light != nil {
		v.light.Stop()
	}
}

// named says of which service an error is, if it has a name of its own.
func (v *service) named(err error) error {
	if v.cfg.Name == config.DefaultName {
		return err
	}
	return fmt.Errorf("service %s: %w", v.cfg.Name, err)
}

// close gives up what open and bind have taken, as far as they came.
func (v *service) close() {
	v.stayHeavy()
	v.closeDirect()
	if v.bound != nil {
		v.bound.unlink()
		v.bound.Close()
	}
}

// start begins to serve, and says so.
func (v *service) start(failed chan<- error) {
	v.startServing(failed)
	v.log.Info(msgListening, "bind", v.bound.address(), "dest", v.destination(), "program", v.cfg.Path)
	v.noteExposure()
}

// drain ends the taking of clients. Those who wait are told, the others go on.
func (v *service) drain(key, why string) {
	v.holds.close()
	v.bound.unlink()
	v.stopServing()
	v.drainDirect()
	v.server.Drain()
	v.log.Info(msgStopping, key, why, "connections", v.connections(),
		"drain_timeout", v.cfg.DrainTimeout, "hint", "a second signal ends it now")
}

// end lets connections finish until hurry is done or the drain timeout is over,
// then stops the child, and lets the last bytes be acknowledged.
func (v *service) end(hurry context.Context) {
	drain, cancel := context.WithTimeout(hurry, v.cfg.DrainTimeout)
	defer cancel()
	v.pool.Shutdown(drain)
	if v.heir != nil {
		v.heir.TurnAway() // whom the child has left in the queue
	}
	tail, cancelTail := context.WithTimeout(context.Background(), tailTime)
	defer cancelTail()
	if v.server.Wait(tail) != nil {
		v.server.Abandon()
	}
}

// kill makes end immediate.
func (v *service) kill() {
	v.server.Reset()
	v.pool.Kill()
}

// noteExposure says once what makes a child that is taken over, or that trusts
// the wrong clients, dangerous: that it is root; and that it cannot tell near
// from far any more, so that one that trusts local connections trusts everybody.
func (v *service) noteExposure() {
	if u := v.cfg.User; os.Geteuid() == 0 && (u == nil || u.UID == 0) {
		v.log.Info("the child is started as root", "hint", "unless it changes its user by itself, --user gives it another one")
	}
	at, ok := v.bound.Addr().(*net.TCPAddr)
	if !ok || at.IP.IsLoopback() || v.heir != nil {
		return
	}
	if ip := net.ParseIP(v.cfg.Dest.Host); v.cfg.Dest.Network == "unix" || v.cfg.Dest.Host == "localhost" || ip != nil && ip.IsLoopback() {
		v.log.Info("clients of other machines will look local to the child", "bind", v.bound.address())
	}
}

// flush passes on what there is of lines that the child has not finished.
func (v *service) flush() {
	for _, x := range v.prefixes {
		x.Flush()
	}
}
