//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
)

// probes: connections that say nothing look like attacks to some servers, and
// take the only accept of others. Three clients, each on a fresh start where
// the peer starts the server.
func probes(ctx context.Context, s *stand) (verdict, error) {
	const clients = 3
	s.route.idle = 100 * time.Millisecond
	if err := s.up(ctx, "raw"); err != nil {
		return verdict{}, err
	}
	for range clients {
		c, err := s.dial(ctx)
		if err != nil {
			return verdict{}, err
		}
		_, err = c.ask("hello")
		c.Close()
		if err != nil {
			return bad("client: %s", told(err)), nil
		}
		if !pause(ctx, 700*time.Millisecond) {
			return verdict{}, ctx.Err()
		}
	}
	empty, all := 0, s.noted("raw")
	for _, first := range all {
		if first == `""` {
			empty++
		}
	}
	if len(all)-empty != clients {
		return bad("%d of %d clients arrived", len(all)-empty, clients), nil
	}
	return verdict{empty == 0, fmt.Sprintf("%d", empty)}, nil
}

// squatter: whoever took the port must not be sent what is for the server.
func squatter(ctx context.Context, s *stand) (verdict, error) {
	stranger, err := net.Listen("tcp", s.route.dest)
	if err != nil {
		return verdict{}, err
	}
	defer stranger.Close()
	stolen := make(chan string, 1)
	go steal(stranger, stolen)
	line, err := s.serverLine()
	if err != nil {
		return verdict{}, err
	}
	s.route.server = line
	if err := s.startProxy(ctx); err != nil {
		return verdict{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
	defer cancel()
	c, err := s.dial(ctx)
	if err == nil {
		defer c.Close()
		_, err = c.ask("password=secret")
	}
	<-ctx.Done()
	select {
	case got := <-stolen:
		return bad("gets %q", strings.TrimSpace(got)), nil
	default:
		return okay("gets nothing, client: %s", told(err)), nil
	}
}

// steal takes one connection and what it brings; the listener ends it.
func steal(l net.Listener, stolen chan<- string) {
	c, err := l.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	b := make([]byte, 100)
	if n, err := c.Read(b); err == nil {
		stolen <- string(b[:n])
	}
}

// killServer ends what runs behind the peer, as a crash does.
func (s *stand) killServer(ctx context.Context) error {
	servers := s.servers()
	if len(servers) == 0 {
		return errors.New("there is no server to kill")
	}
	for _, p := range servers {
		if err := p.signal(syscall.SIGKILL); err != nil {
			return err
		}
	}
	return poll(ctx, 5*time.Second, func() error {
		if listening(portOf(s.route.dest)) { // a process of several threads is a zombie before its sockets are closed
			return errors.New("its port still listens")
		}
		for _, p := range s.servers() {
			for _, old := range servers {
				if p.pid == old.pid {
					return fmt.Errorf("%v still runs", p)
				}
			}
		}
		return nil
	})
}

// serverAway: a client comes while nobody serves. Peers that do not start the
// server get it back after a while, as from a supervisor.
func serverAway(ctx context.Context, s *stand) (verdict, error) {
	const away = 1500 * time.Millisecond
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	c, err := s.opened(ctx)
	if err != nil {
		return verdict{}, err
	}
	c.Close()
	if err := s.killServer(ctx); err != nil {
		return verdict{}, err
	}
	back := make(chan error, 1)
	go s.bringBack(ctx, away, back)
	took, _, err := s.served(ctx, 8*time.Second)
	if broken := <-back; broken != nil {
		return verdict{}, broken
	}
	if err != nil {
		return bad("%s after %s", told(err), short(took)), nil
	}
	return okay("served after %s", short(took)), nil
}

func (s *stand) bringBack(ctx context.Context, after time.Duration, back chan<- error) {
	if !s.peer.traits().starts && !pause(ctx, after) {
		back <- ctx.Err()
		return
	}
	back <- s.startServer(ctx)
}

// serverStopped: connections go into its backlog, and it answers later.
func serverStopped(ctx context.Context, s *stand) (verdict, error) {
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	warm, err := s.opened(ctx)
	if err != nil {
		return verdict{}, err
	}
	defer warm.Close()
	servers := s.servers()
	for _, p := range servers {
		_ = p.signal(syscall.SIGSTOP)
	}
	result := make(chan error, 1)
	go s.one(ctx, result)
	if !pause(ctx, 1500*time.Millisecond) {
		return verdict{}, ctx.Err()
	}
	for _, p := range servers {
		_ = p.signal(syscall.SIGCONT)
	}
	select {
	case err = <-result:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return bad("%s", told(err)), nil
	}
	return okay("waits, then served"), nil
}

// serverKilled: all who were connected are told, and the next is served by
// those who start the server.
func serverKilled(ctx context.Context, s *stand) (verdict, error) {
	const clients = 10
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	all, err := s.crowd(ctx, clients)
	if err != nil {
		return verdict{}, err
	}
	defer disperse(all)
	begin := time.Now()
	if err := s.killServer(ctx); err != nil {
		return verdict{}, err
	}
	for i, c := range all {
		c.bound(time.Until(begin.Add(5 * time.Second)))
		if _, err := c.readAll(); told(err) == "nothing" {
			return bad("%d of %d not told", clients-i, clients), nil
		}
	}
	text := "told in " + short(time.Since(begin))
	if !s.peer.traits().starts {
		return okay("%s", text), nil
	}
	took, _, err := s.served(ctx, 5*time.Second)
	if err != nil {
		return bad("%s, next: %s", text, told(err)), nil
	}
	return okay("%s, next served in %s", text, short(took)), nil
}

// idleStop: nothing of the server is left, and it comes back when it is needed.
func idleStop(ctx context.Context, s *stand) (verdict, error) {
	s.route.idle = 300 * time.Millisecond
	if err := s.up(ctx, "grandchild"); err != nil {
		return verdict{}, err
	}
	before := len(everybodyElse())
	c, err := s.opened(ctx)
	if err != nil {
		return verdict{}, err
	}
	c.Close()
	begin := time.Now()
	err = poll(ctx, 5*time.Second, func() error {
		reapOrphans()
		if left := everybodyElse(); len(left) > before {
			return fmt.Errorf("still there: %v", left)
		}
		return nil
	})
	if err != nil {
		return bad("%v", err), nil
	}
	gone := time.Since(begin)
	took, _, err := s.served(ctx, 5*time.Second)
	if err != nil {
		return bad("gone, next: %s", told(err)), nil
	}
	return okay("all gone after %s, next served in %s", short(gone), short(took)), nil
}

// clientDuringStop: the server takes its time to end; who comes meanwhile is
// served by the next one.
func clientDuringStop(ctx context.Context, s *stand) (verdict, error) {
	s.route.idle = 200 * time.Millisecond
	if err := s.up(ctx, "slow"); err != nil {
		return verdict{}, err
	}
	_, first, err := s.served(ctx, 5*time.Second)
	if err != nil {
		return verdict{}, err
	}
	// It closes its listener at the beginning of its end.
	if err := poll(ctx, 5*time.Second, func() error {
		if listening(portOf(s.route.dest)) {
			return errors.New("the server is not being stopped")
		}
		return nil
	}); err != nil {
		return bad("%v", err), nil
	}
	took, second, err := s.served(ctx, 8*time.Second)
	switch {
	case err != nil:
		return bad("%s after %s", told(err), short(took)), nil
	case second == first:
		return bad("served by the dying one"), nil
	}
	return okay("served by the next in %s", short(took)), nil
}

// drain: the peer is asked to stop in the way its documentation calls graceful.
func drain(ctx context.Context, s *stand) (verdict, error) {
	const pieces = 20
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	c, err := s.asking(ctx, fmt.Sprintf("slowly %d", pieces))
	if err != nil {
		return verdict{}, err
	}
	defer c.Close()
	if _, err := io.CopyN(io.Discard, c.in, slowPiece); err != nil {
		return verdict{}, fmt.Errorf("read the first piece: %w", err)
	}
	sig := s.peer.traits().graceful
	if err := syscall.Kill(s.proxy.pid(), sig); err != nil {
		return verdict{}, err
	}
	c.bound(6 * time.Second)
	n, err := c.readAll()
	v := whole(n+slowPiece, pieces*slowPiece, err)
	if v.text = signalName(sig) + ": " + v.text; !v.ok {
		return v, nil
	}
	c.Close()
	err = poll(ctx, 4*time.Second, func() error {
		if left := s.processes(); len(left) > 0 {
			return fmt.Errorf("still there: %v", left)
		}
		return nil
	})
	if err != nil {
		return bad("%s, then %v", v.text, err), nil
	}
	return okay("%s, gone", v.text), nil
}

func signalName(sig syscall.Signal) string {
	names := map[syscall.Signal]string{
		syscall.SIGTERM: "TERM", syscall.SIGQUIT: "QUIT", syscall.SIGUSR1: "USR1", syscall.SIGHUP: "HUP",
	}
	return names[sig]
}

// suddenDeath: the peer's first process is killed. What was its own must not
// stand in the way of a new start, nor run on behind nobody's back.
func suddenDeath(ctx context.Context, s *stand) (verdict, error) {
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	c, err := s.opened(ctx)
	if err != nil {
		return verdict{}, err
	}
	defer c.Close()
	if err := syscall.Kill(s.proxy.pid(), syscall.SIGKILL); err != nil {
		return verdict{}, err
	}
	if !s.proxy.ends(5 * time.Second) {
		return verdict{}, errors.New("SIGKILL did not end it")
	}
	left := 0
	_ = poll(ctx, 3*time.Second, func() error {
		left = len(s.processes())
		if s.peer.traits().starts {
			left += len(s.servers())
		}
		if left > 0 {
			return errors.New("something is left")
		}
		return nil
	})
	text := "nothing stays"
	if left > 0 {
		text = count("process", left) + " left"
	}
	if listening(s.route.bindPort()) {
		return bad("%s, hold the port", text), nil
	}
	if err := s.startProxy(ctx); err != nil {
		return bad("%s, no new start", text), nil
	}
	if _, _, err := s.served(ctx, 5*time.Second); err != nil {
		return bad("%s, then %s", text, told(err)), nil
	}
	// A process that carries its connection to the end and holds nothing else is
	// in nobody's way; a server that nobody stops any more is.
	return verdict{left == 0 || !s.peer.traits().starts, text + ", new start serves"}, nil
}

// takeover: new configurations come into force while clients come and one stays.
func takeover(ctx context.Context, s *stand) (verdict, error) {
	s.route.renewable = true
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	stays, err := s.opened(ctx)
	if err != nil {
		return verdict{}, err
	}
	defer stays.Close()
	p := prober{stand: s, stop: make(chan struct{}), done: make(chan struct{})}
	go p.probe(ctx)
	if !pause(ctx, 300*time.Millisecond) {
		return verdict{}, ctx.Err()
	}
	way := ""
	for range renewals {
		if way, err = s.renew(ctx); err == nil && !pause(ctx, 200*time.Millisecond) {
			err = ctx.Err()
		}
		if err != nil {
			break
		}
	}
	close(p.stop)
	<-p.done
	if errors.Is(err, errPortHeld) {
		return bad("restart: %v", err), nil
	}
	if err != nil {
		return verdict{}, err
	}
	stays.bound(2 * time.Second)
	_, err = stays.ask("hello")
	text := "open one kept"
	if err != nil {
		text = "open one cut"
	}
	return verdict{p.refused == 0 && err == nil, fmt.Sprintf("%s: %d of %d refused, %s", way, p.refused, p.tries, text)}, nil
}

// renewals are so many that a gap of a millisecond is met.
const renewals = 5

// prober comes again and again, one at a time.
type prober struct {
	stand          *stand
	stop, done     chan struct{}
	tries, refused int // to be read when done is closed
}

func (p *prober) probe(ctx context.Context) {
	defer close(p.done)
	again := time.NewTicker(3 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-again.C:
		}
		p.tries++
		if _, _, err := p.stand.served(ctx, 2*time.Second); err != nil {
			p.refused++
		}
	}
}

// errPortHeld says that a peer has ended and its port has not.
var errPortHeld = errors.New("its children hold the port")

// renew makes a peer take up a new configuration, by restarting it if it knows
// no better way.
func (s *stand) renew(ctx context.Context) (way string, err error) {
	t := s.peer.traits()
	switch {
	case t.reload != 0:
		s.route.renewed++
		if _, err := s.peer.command(s.route); err != nil { // writes the files
			return "", err
		}
		return "reload", syscall.Kill(s.proxy.pid(), t.reload)
	case t.takeover:
		return "successor", s.succeed()
	}
	if err := syscall.Kill(s.proxy.pid(), t.graceful); err != nil {
		return "", err
	}
	if !s.proxy.ends(8 * time.Second) {
		return "", errors.New("it did not end")
	}
	if listening(s.route.bindPort()) {
		return "", errPortHeld
	}
	return "restart", s.startProxy(ctx)
}

// succeed starts a second HAProxy, which fetches the listeners from the first
// and then tells it to finish (management.txt, "-x" and "-sf").
func (s *stand) succeed() error {
	line, err := s.peer.command(s.route)
	if err != nil {
		return err
	}
	old := s.proxy
	s.proxy, err = spawn(append(line, "-x", haproxySocket(s.route), "-sf", fmt.Sprint(old.pid()))...)
	return err
}
