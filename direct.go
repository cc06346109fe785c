package main

import (
	"context"
	"fmt"
	"net"

	"tiproxy/internal/config"
	"tiproxy/internal/direct"
	"tiproxy/internal/pool"
	"tiproxy/internal/probe"
)

// openDirect opens the direct path where it was asked for and can be had, and
// says in one line which path it is and why.
func (p *program) openDirect() error {
	want := p.service.BytePath
	switch want {
	case config.PathCopy:
		return nil
	case config.PathInherit:
		return p.openHeir()
	}
	why := p.service.NotDirect
	if why == "" {
		var err error
		if p.direct, err = p.newDirect(); err == nil {
			p.log.Info(msgPath, "path", config.PathDirect)
			return nil
		}
		if want == config.PathDirect {
			return fmt.Errorf("--path direct cannot be had here: %w", err)
		}
		why = err.Error()
	}
	p.log.Info(msgPath, "path", config.PathCopy, "why", why)
	return nil
}

func (p *program) newDirect() (*direct.Path, error) {
	l, ok := p.bound.Listener.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("--bind is no TCP socket but %T", p.bound.Listener)
	}
	return direct.Open(p.directConfig(l))
}

func (p *program) directConfig(l *net.TCPListener) direct.Config {
	return direct.Config{Listener: l, Idle: p.service.Idle, Hold: p.holdChild, Carried: p.carried, Log: p.log}
}

// holdChild keeps a life awake for the clients that the kernel leads to it.
func (p *program) holdChild(gen uint64) (release func(), ok bool) {
	lease, ok := p.pool.Beside(gen)
	if !ok {
		return nil, false
	}
	return func() { p.pool.Put(lease) }, true
}

// carried are the connections that tiproxy carries itself.
func (p *program) carried() map[direct.Pair]bool {
	ends := p.server.Ends()
	pairs := make(map[direct.Pair]bool, len(ends))
	for _, e := range ends {
		pairs[direct.Pair(e)] = true
	}
	return pairs
}

// steer leads clients to a life for as long as it is opened, and logs what
// happened to it. It is the pool's Notify on the direct path.
func (p *program) steer(ev pool.Event) {
	switch ev.Kind {
	case pool.EventOpened:
		if p.heir != nil {
			p.direct.Begin(ev.Gen, nil)
		} else if life, ok := ev.Life.(interface{ Tree() probe.Tree }); ok {
			p.direct.Begin(ev.Gen, p.finder(life.Tree()))
		}
	case pool.EventShutdown, pool.EventClosed:
		p.direct.End(ev.Gen)
	}
	p.logEvent(ev)
}

// finder finds the listening sockets of a tree that serve --dest.
func (p *program) finder(tree probe.Tree) direct.Finder {
	listen := probe.Listen{Dest: p.probed()}
	return func(ctx context.Context) ([]direct.Socket, error) {
		held, err := listen.Held(ctx, tree)
		if err != nil {
			return nil, err
		}
		sockets := make([]direct.Socket, len(held))
		for i, h := range held {
			sockets[i] = direct.Socket(h)
		}
		return sockets, nil
	}
}

// drainDirect takes the path from the kernel's new clients, for a stop.
func (p *program) drainDirect() {
	if p.direct != nil {
		p.direct.Drain()
	}
}

// closeDirect ends the path.
func (p *program) closeDirect() {
	switch {
	case p.heir != nil:
		p.heir.Close()
	case p.direct != nil:
		p.direct.Close()
	}
}

// connections is how many clients are connected, whoever carries their bytes.
func (p *program) connections() int {
	n := p.pool.Snapshot().Connections
	if p.direct != nil {
		n += p.direct.Stats().Now
	}
	return n
}
