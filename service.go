package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"tiproxy/internal/admin"
	"tiproxy/internal/budget"
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
	name   string
	cfg    atomic.Pointer[config.Service] // what is wanted of it now
	newest atomic.Pointer[starter]        // the one that was started last; nil before the first
	log    *slog.Logger
	host   *process.Host // shared by all services

	out, err io.Writer        // where the child's output goes
	printed  output.Ring      // what of it is remembered for who asks
	recorded []*recorder      // in front of out and err, if somebody may ask
	logFile  logFile          // in place of them, if one is wanted
	prefixes []*output.Prefix // in front of them, where several services may share them
	times    metrics.Times    // that nobody else keeps
	starts   atomic.Uint64    // that ended with a child that was ready
	light    *time.Timer      // see lighten; used by the pool's Notify, and after its end

	bound    atomic.Pointer[binding]
	direct   *direct.Path      // nil on the copy path
	heir     *direct.Inherited // nil unless the child inherits the listener; direct is then part of it
	ledger   *budget.Ledger    // shared by all services
	pool     *pool.Pool
	member   *budget.Member // the way to pool for who may have to wait for room
	next     starter        // whom the next start starts
	tuning   sync.Mutex     // held while the server is told what has changed
	server   *proxy.Server
	endServe context.CancelFunc
	served   chan struct{} // closed when serveHeir has ended
	fails    func(failure) // the program
	parted   bool          // the ledger knows it no more; main's
	handed   bool          // another service takes its listener over; set before it leaves
	gone     chan struct{} // closed when nothing is left of a service that leaves

	// What people are shown and have asked for.
	since     time.Time // when counting began
	journal   *admin.Journal
	holds     holds
	failed    atomic.Pointer[string]        // why it takes no clients any more
	lastError atomic.Pointer[admin.Failure] // why the child failed last
}

// config is what is wanted of the service now. Nobody may change it.
func (v *service) config() *config.Service { return v.cfg.Load() }

// lived is what the newest child was started with, or the first will be.
func (v *service) lived() *config.Service {
	if c := v.newest.Load(); c != nil {
		return c.cfg
	}
	return v.config()
}

// newService returns a service of p that has nothing yet.
func (p *program) newService(cfg config.Service) *service {
	v := &service{
		name: cfg.Name, log: p.log, out: p.out, err: (*pieces)(p.lines), since: time.Now(), journal: p.journal,
		ledger: p.ledger, fails: p.noteFailure, gone: make(chan struct{}),
	}
	v.cfg.Store(&cfg)
	if p.exporter != nil {
		v.times = p.exporter.Service(cfg.Name)
	}
	if p.options.file != "" {
		v.log = p.log.With("service", cfg.Name)
		stdout, stderr := output.NewPrefix(p.out, cfg.Name), output.NewPrefix(p.lines, cfg.Name)
		v.out, v.err = &outlet{v.out, stdout, &p.several, &v.logFile}, &outlet{v.err, stderr, &p.several, &v.logFile}
		v.prefixes = []*output.Prefix{stdout, stderr}
	}
	if p.adminAt.at.Network != "" {
		v.record()
	}
	v.holds.keep = func(ctx context.Context) (*pool.Lease, error) {
		return v.member.Keep(ctx, pool.Caller{Name: "tiproxy hold"})
	}
	v.holds.put = func(l *pool.Lease) { v.member.Put(l) }
	v.holds.told = v.toldHold
	return v
}

// bind takes the service's address.
func (v *service) bind(ctx context.Context) error {
	bound, err := bind(ctx, *v.config())
	if err != nil {
		return v.named(err)
	}
	v.bound.Store(bound)
	return nil
}

// open takes what the service needs beside its address.
func (v *service) open(host *process.Host) error {
	v.host = host
	if err := v.openDirect(); err != nil {
		return v.named(err)
	}
	v.pool = pool.New(v.newStarter(), v.poolConfig())
	v.member = v.ledger.Join(v.name, v.pool)
	v.server = proxy.New(v.member, v.proxyConfig())
	return nil
}

// lightAfter is how long nothing of a child has existed when memory is given back.
const lightAfter = 2 * time.Second

// lighten gives memory that the last life, or the start of the program, has needed
// back to the system, unless there is soon another one: who sleeps is to be small.
func (v *service) lighten() { v.light = time.AfterFunc(lightAfter, giveBack) }

func giveBack() {
	debug.FreeOSMemory()
	shedOnce()
}

// shedOnce lets go of what only the start of the program has needed. What a life
// needs comes back with the next one, and stays: fetching it anew each time would
// cost the client who waits 2 ms.
var shedOnce = sync.OnceFunc(shed)

// stayHeavy undoes lighten.
func (v *service) stayHeavy() {
	if v.light != nil {
		v.light.Stop()
	}
}

// named says of which service an error is, if it has a name of its own.
func (v *service) named(err error) error {
	if v.name == config.DefaultName {
		return err
	}
	return fmt.Errorf("service %s: %w", v.name, err)
}

// close gives up what open and bind have taken, as far as they came.
func (v *service) close() {
	v.stayHeavy()
	v.closeDirect()
	v.logFile.replace(nil)
	if b := v.bound.Load(); b != nil {
		b.unlink()
		b.Close()
	}
}

// equip is what has to be done before anybody can come: clients, those who need
// the service, and who asks for it.
func (v *service) equip() {
	v.keepLogs(v.config().Logs)
	v.lighten()
}

// start begins to serve, and says so.
func (v *service) start() {
	v.startServing()
	v.logListening()
	v.noteExposure()
}

func (v *service) logListening() {
	v.log.Info(msgListening, "bind", v.bound.Load().address(), "dest", v.destination(), "program", v.config().Path)
}

// drain ends the taking of clients. Those who wait are told, the others go on.
func (v *service) drain(key, why string) {
	v.holds.close()
	v.bound.Load().unlink()
	v.stopServing()
	v.drainDirect()
	v.server.Drain()
	v.log.Info(msgStopping, key, why, "connections", v.connections(),
		"drain_timeout", v.config().DrainTimeout, "hint", "a second signal ends it now")
}

// end lets connections finish until hurry is done or the drain timeout is over,
// then stops the child.
func (v *service) end(hurry context.Context) {
	drain, cancel := context.WithTimeout(hurry, v.config().DrainTimeout)
	defer cancel()
	v.pool.Shutdown(drain)
	if v.heir != nil {
		v.endHeir()
	}
	v.finish()
}

// finish lets the last bytes be acknowledged.
func (v *service) finish() {
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
	cfg, bound := v.config(), v.bound.Load()
	if u := cfg.User; os.Geteuid() == 0 && (u == nil || u.UID == 0) {
		v.log.Info("the child is started as root", "hint", "unless it changes its user by itself, --user gives it another one")
	}
	at, ok := bound.Addr().(*net.TCPAddr)
	if !ok || at.IP.IsLoopback() || v.heir != nil {
		return
	}
	if ip := net.ParseIP(cfg.Dest.Host); cfg.Dest.Network == "unix" || cfg.Dest.Host == "localhost" || ip != nil && ip.IsLoopback() {
		v.log.Info("clients of other machines will look local to the child", "bind", bound.address())
	}
}

// flush passes on what there is of lines that the child has not finished.
func (v *service) flush() {
	for _, x := range v.prefixes {
		x.Flush()
	}
}
