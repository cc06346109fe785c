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
func (v *service) openDirect() error {
	cfg := v.config()
	want := cfg.BytePath
	switch want {
	case config.PathCopy:
		return nil
	case config.PathInherit:
		return v.openHeir()
	}
	why := cfg.NotDirect
	if why == "" {
		var err error
		if v.direct, err = v.newDirect(); err == nil {
			v.log.Info(msgPath, "path", config.PathDirect)
			return nil
		}
		if want == config.PathDirect {
			return fmt.Errorf("--path direct cannot be had here: %w", err)
		}
		why = err.Error()
	}
	v.log.Info(msgPath, "path", config.PathCopy, "why", why)
	return nil
}

func (v *service) newDirect() (*direct.Path, error) {
	l, ok := v.bound.Load().Listener.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("--bind is no TCP socket but %T", v.bound.Load().Listener)
	}
	return direct.Open(v.directConfig(l))
}

func (v *service) directConfig(l *net.TCPListener) direct.Config {
	return direct.Config{Listener: l, Idle: v.config().Idle, Hold: v.holdChild, Carried: v.carried, Log: v.log}
}

// holdChild keeps a life awake for the clients that the kernel leads to it.
func (v *service) holdChild(gen uint64) (release func(), ok bool) {
	lease, ok := v.pool.Beside(gen)
	if !ok {
		return nil, false
	}
	return func() { v.pool.Put(lease) }, true
}

// carried are the connections that tiproxy carries itself.
func (v *service) carried() map[direct.Pair]bool {
	ends := v.server.Ends()
	pairs := make(map[direct.Pair]bool, len(ends))
	for _, e := range ends {
		pairs[direct.Pair(e)] = true
	}
	return pairs
}

// steer leads clients to a life for as long as it is opened, and logs what
// happened to it. It is the pool's Notify on the direct path.
func (v *service) steer(ev pool.Event) {
	switch ev.Kind {
	case pool.EventOpened:
		if v.heir != nil {
			v.direct.Begin(ev.Gen, nil)
		} else if life, ok := ev.Life.(interface{ Tree() probe.Tree }); ok {
			v.direct.Begin(ev.Gen, v.finder(life.Tree()))
		}
	case pool.EventShutdown, pool.EventClosed:
		v.direct.End(ev.Gen)
	}
	v.logEvent(ev)
}

// finder finds the listening sockets of a tree that serve --dest.
func (v *service) finder(tree probe.Tree) direct.Finder {
	listen := probe.Listen{Dest: probed(v.lived().Dest)}
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
func (v *service) drainDirect() {
	if v.direct != nil {
		v.direct.Drain()
	}
}

// closeDirect ends the path.
func (v *service) closeDirect() {
	switch {
	case v.heir != nil:
		v.heir.Close()
	case v.direct != nil:
		v.direct.Close()
	}
}

// connections is how many clients are connected, whoever carries their bytes.
func (v *service) connections() int {
	n := v.pool.Snapshot().Connections
	if v.direct != nil {
		n += v.direct.Stats().Now
	}
	return n
}
