package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"

	"tiproxy/internal/config"
	"tiproxy/internal/direct"
	"tiproxy/internal/pool"
	"tiproxy/internal/probe"
	"tiproxy/internal/process"
	"tiproxy/internal/proxy"
)

// starter is a resource whose lives all have the same settings.
type starter struct {
	*process.Resource
	of  *service
	cfg *config.Service
}

// Start implements pool.Resource. What the proxy has to know of a child changes
// with it.
func (c starter) Start(ctx context.Context, gen uint64) (pool.Life, error) {
	c.of.newest.Store(&c)
	c.of.tune()
	return c.Resource.Start(ctx, gen)
}

// newStarter starts the child of the service as it is wanted now.
func (v *service) newStarter() starter {
	s := v.config()
	v.next = starter{v.newResource(s), v, s}
	return v.next
}

func (v *service) newResource(s *config.Service) *process.Resource {
	v.log.Debug("command", "program", s.Path, "args", s.Args, "workdir", s.Workdir, "env", s.Env)
	environ := os.Environ()
	if s.User != nil {
		environ = s.User.Environ(environ)
	}
	cmd := process.Command{
		Service:     s.Name,
		Path:        s.Path,
		Args:        append([]string{programName(s.Exec, s.Path)}, s.Args...),
		Dir:         s.Workdir,
		Env:         v.childEnv(environ, s.Env),
		User:        credential(s.User),
		StopSignal:  s.StopSignal,
		StopTimeout: s.StopTimeout,
		Stdout:      v.out,
		Stderr:      v.err,
		Gates:       gates(s.Ready),
	}
	if v.heir != nil {
		cmd.Activated, cmd.Listener = true, uintptr(v.heir.Descriptor())
	}
	return process.NewResource(v.host, cmd, v.prober(s), v.log)
}

// childEnv is the child's whole environment.
func (v *service) childEnv(environ, extra []string) []string {
	env := process.CleanEnv(environ, extra)
	if v.direct != nil && v.heir == nil {
		return direct.Environ(env)
	}
	return env
}

// credential is who the child is to become, nil if it is to stay who we are.
func credential(u *config.User) *process.Credential {
	if u == nil || u.Own {
		return nil
	}
	return &process.Credential{Name: u.String(), UID: u.UID, GID: u.GID, Groups: u.Groups}
}

// programName is what a program finds as its own name: what was written, but
// never a path that means something else in the child's directory.
func programName(written, path string) string {
	if strings.Contains(written, "/") {
		return path
	}
	return written
}

// probed is --dest as a probe knows it.
func probed(d config.Addr) probe.Dest {
	return probe.Dest{Network: d.Network, Host: d.Host, Port: d.Port, Path: d.Path}
}

// prober and gates are the one place that knows every kind of readiness.
func (v *service) prober(s *config.Service) process.Prober {
	if v.heir != nil {
		return heirProber{v.heir}
	}
	dest := probed(s.Dest)
	listen, dial := &probe.Listen{Dest: dest, OnGuess: v.guessed}, &probe.Dial{Dest: dest}
	switch r := s.Ready; {
	case r.Listen && r.Dial:
		return &probe.Both{Listen: listen, Dial: dial}
	case r.Dial:
		return dial
	default:
		return listen
	}
}

func gates(r config.Ready) process.Gates {
	g := process.Gates{Lines: r.Lines, Notify: r.Notify}
	for _, u := range r.URLs {
		g.URLs = append(g.URLs, &probe.HTTP{URL: u})
	}
	for _, c := range r.Commands {
		args := append([]string{programName(c.Args[0], c.Path)}, c.Args[1:]...)
		g.Commands = append(g.Commands, process.Check{Name: c.Args[0], Path: c.Path, Args: args})
	}
	return g
}

// guessed tells once that readiness rests on less than proof.
func (v *service) guessed(why string) {
	v.log.Info("the child's sockets cannot be told for sure", slog.String("why", why))
}

// tune tells the server what is wanted of it. The pool's monitor asks for it,
// and main does: whoever comes last tells the newest.
func (v *service) tune() {
	v.tuning.Lock()
	defer v.tuning.Unlock()
	v.server.Configure(v.proxyConfig())
}

// proxyConfig is what the server does for clients, and for the newest child.
func (v *service) proxyConfig() proxy.Config {
	s, life := v.config(), v.lived()
	cfg := proxy.Config{
		Hold:           s.StartTimeout,
		MaxConnections: s.MaxConnections,
		MaxWaiting:     s.MaxWaiting,
		Admission:      proxy.Admission{Allow: s.Allow, Deny: s.Deny, PerSource: s.MaxPerSource},
		WakeOnData:     s.WakeOn == config.WakeOnData,
		Header:         headerVersion(life.ProxyProtocol),
		TrustHeader:    s.TrustHeader,
		Waited:         v.times.Waited,
		Lasted:         v.times.Lasted,
		Log:            v.log,
	}
	if s.QuietPolicy != config.QuietKeep {
		cfg.Quiet = proxy.Quiet{After: s.Quiet, Close: s.QuietPolicy == config.QuietClose}
	}
	if !life.Ready.Dial {
		cfg.Taken = probe.Taken // a dialing probe would knock at the child for every question
	}
	if v.direct != nil {
		cfg.Arrived = v.direct.Again
	}
	return cfg
}

// headerVersion is the number by which proxy knows a version of the header.
func headerVersion(v config.ProxyProtocol) byte {
	switch v {
	case config.ProxyV1:
		return 1
	case config.ProxyV2:
		return 2
	}
	return 0
}

// poolConfig is when the child is started and stopped.
func (v *service) poolConfig() pool.Config {
	s := v.config()
	cfg := pool.Config{
		Idle: s.Idle, MinUptime: s.MinUptime, StartTimeout: s.StartTimeout,
		WakeRate: pool.Rate{N: s.WakeRate.N, Per: s.WakeRate.Per},
		Vacated:  v.ledger.Vacated(),
		Notify:   v.logEvent,
	}
	if v.direct != nil {
		cfg.Hidden, cfg.Notify = v.direct, v.steer
	}
	return cfg
}

// startServing begins to take clients, or to wait for those that the child takes.
func (v *service) startServing() {
	ctx, cancel := context.WithCancel(context.Background())
	v.endServe, v.served = cancel, make(chan struct{})
	if v.heir != nil {
		go v.serveHeir(ctx)
	} else {
		go v.serve(v.bound.Load().Listener)
	}
}

// stopServing ends the wait for clients that the child takes. The server ends by
// its Drain.
func (v *service) stopServing() {
	v.endServe()
	if v.heir != nil {
		v.drainHeir()
	}
}

// serve accepts clients until the server drains or is to leave l. It tells the
// error that ends it before that; that l is closed is none, as nobody but us
// closes it, if need be before the server knows of it.
func (v *service) serve(l net.Listener) {
	if err := v.server.Serve(l); err != nil && !errors.Is(err, net.ErrClosed) {
		v.fail(err)
	}
}

// failure is why a service takes no clients any more.
type failure struct {
	of  *service
	err error
}

func (v *service) fail(err error) {
	why := err.Error()
	v.failed.Store(&why)
	v.fails(failure{v, err})
}
