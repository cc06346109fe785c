package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"tiproxy/internal/admin"
	"tiproxy/internal/config"
)

// errStopping is the answer to a question about health while the program ends.
var errStopping = errors.New("stopping")

// adminRoom is where the program can be asked about itself. The zero value is
// one that nobody asked for: closing it does nothing.
type adminRoom struct {
	bound    *binding
	server   *admin.Server
	stopping atomic.Bool
}

// readAdmin reads where the admin socket is wanted; no Network means nowhere.
func readAdmin(v config.Value, services []config.Service) (config.Addr, error) {
	if v.Text == "" && !v.Given {
		return config.Addr{}, nil
	}
	if v.Text == "" {
		return config.Addr{}, errors.New("is empty: write for example unix:/run/tiproxy.sock, or leave it out")
	}
	a, err := config.ParseBind(v.Text)
	switch {
	case err != nil:
		return a, err
	case a.Network != "unix":
		return a, fmt.Errorf("%q is open to everybody who can reach it, and the admin socket is for tiproxy's own user only: write for example unix:/run/tiproxy.sock", v.Text)
	}
	for _, s := range services {
		if config.SamePlace(a, s.Bind) || config.SamePlace(a, s.Dest) {
			return a, fmt.Errorf("%q is where clients connect or the child listens: write another path", v.Text)
		}
	}
	return a, nil
}

// openAdmin makes the admin socket, if one was asked for. Who asks waits for startAdmin.
func (p *program) openAdmin(ctx context.Context) error {
	if p.adminAt.Network == "" {
		return nil
	}
	bound, err := bindUnix(ctx, p.adminAt, listenAdmin)
	if err != nil {
		return err
	}
	p.admin.bound = bound
	return nil
}

// startAdmin begins to answer.
func (p *program) startAdmin() {
	if p.admin.bound != nil {
		p.admin.server = admin.Serve(p.admin.bound.Listener, p.admin.health, p.exporter.Handler(), p.log)
	}
}

// listenAdmin is admin.Listen as bindUnix wants it.
func listenAdmin(ctx context.Context, path string) (net.Listener, error) {
	l, err := admin.Listen(ctx, path)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// health is what the proxy says when it is asked. The child has no part in it.
func (a *adminRoom) health() error {
	if a.stopping.Load() {
		return errStopping
	}
	return nil
}

// close ends the room. Nobody can ask any more when it returns.
func (a *adminRoom) close() {
	if a.bound == nil {
		return
	}
	a.bound.unlink()
	if a.server == nil {
		a.bound.Close()
		return
	}
	a.server.Close()
}
