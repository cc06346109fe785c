package main

import (
	"log/slog"
	"os"
	"strings"

	"tiproxy/internal/config"
	"tiproxy/internal/pool"
	"tiproxy/internal/probe"
	"tiproxy/internal/process"
	"tiproxy/internal/proxy"
)

// resource is the child of the service, as the pool starts it.
func (p *program) resource() *process.Resource {
	s := p.service
	p.log.Debug("command", "program", s.Path, "args", s.Args, "workdir", s.Workdir, "env", s.Env)
	environ := os.Environ()
	if s.User != nil {
		environ = s.User.Environ(environ)
	}
	return process.NewResource(p.host, process.Command{
		Service:     s.Name,
		Path:        s.Path,
		Args:        append([]string{programName(s)}, s.Args...),
		Dir:         s.Workdir,
		Env:         process.CleanEnv(environ, s.Env),
		User:        credential(s.User),
		StopSignal:  s.StopSignal,
		StopTimeout: s.StopTimeout,
		Stdout:      p.out,
		Stderr:      (*pieces)(p.lines),
	}, p.prober(), p.log)
}

// credential is who the child is to become, nil if it is to stay who we are.
func credential(u *config.User) *process.Credential {
	if u == nil || u.Own {
		return nil
	}
	return &process.Credential{Name: u.String(), UID: u.UID, GID: u.GID, Groups: u.Groups}
}

// programName is what the child finds as its own name: what was written, but
// never a path that means something else in the child's directory.
func programName(s config.Service) string {
	if strings.Contains(s.Exec, "/") {
		return s.Path
	}
	return s.Exec
}

// prober is the one place that knows every kind of readiness.
func (p *program) prober() process.Prober {
	d := p.service.Dest
	dest := probe.Dest{Network: d.Network, Host: d.Host, Port: d.Port, Path: d.Path}
	switch p.service.Ready {
	case config.ReadyDial:
		return &probe.Dial{Dest: dest}
	default:
		return &probe.Listen{Dest: dest, OnGuess: p.guessed}
	}
}

// guessed tells once that readiness rests on less than proof.
func (p *program) guessed(why string) {
	p.log.Info("the child's sockets cannot be told for sure", slog.String("why", why))
}

func (p *program) newServer() *proxy.Server {
	s := p.service
	cfg := proxy.Config{
		Hold:           s.StartTimeout,
		MaxConnections: s.MaxConnections,
		MaxWaiting:     s.MaxWaiting,
		Admission:      proxy.Admission{Allow: s.Allow, Deny: s.Deny, PerSource: s.MaxPerSource},
		WakeOnData:     s.WakeOn == config.WakeOnData,
		Header:         headerVersion(s.ProxyProtocol),
		TrustHeader:    s.TrustHeader,
		Log:            p.log,
	}
	if s.QuietPolicy != config.QuietKeep {
		cfg.Quiet = proxy.Quiet{After: s.Quiet, Close: s.QuietPolicy == config.QuietClose}
	}
	if p.service.Ready == config.ReadyListen {
		cfg.Taken = probe.Taken // a dialing probe would knock at the child for every question
	}
	return proxy.New(p.pool, cfg)
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

// newPool returns the pool of the service's child.
func (p *program) newPool() *pool.Pool {
	s := p.service
	return pool.New(p.resource(), pool.Config{
		Idle: s.Idle, MinUptime: s.MinUptime, StartTimeout: s.StartTimeout,
		WakeRate: pool.Rate{N: s.WakeRate.N, Per: s.WakeRate.Per},
		Notify:   p.logEvent,
	})
}

// serve accepts clients until the server drains. It hands over the error that
// ends it before that.
func (p *program) serve(failed chan<- error) {
	if err := p.server.Serve(p.bound.Listener); err != nil {
		failed <- err
	}
}
