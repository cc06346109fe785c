//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// outOfDescriptors: more clients than the peer may have descriptors for.
func outOfDescriptors(ctx context.Context, s *stand) (verdict, error) {
	const clients, settle, watched = 400, 2 * time.Second, 3 * time.Second
	s.wrap = []string{"prlimit", "--nofile=300:300", "--"}
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	warm, err := s.opened(ctx)
	if err != nil {
		return verdict{}, err
	}
	defer warm.Close()
	crowd, leave := context.WithCancel(ctx)
	defer leave()
	var there sync.WaitGroup
	var answered atomic.Int64
	lines := s.proxy.out.count()
	for range clients {
		there.Add(1)
		go s.stay(crowd, &there, &answered)
	}
	if !pause(ctx, settle) {
		return verdict{}, ctx.Err()
	}
	before := s.cost().ticks
	if !pause(ctx, watched) {
		return verdict{}, ctx.Err()
	}
	burnt := cpu(s.cost().ticks-before, watched)
	lines = s.proxy.out.count() - lines
	served := answered.Load()
	leave()
	there.Wait()
	took, err := s.servedAtLast(ctx, 5*time.Second)
	if err != nil {
		return bad("%d served, then %s", served, told(err)), nil
	}
	return verdict{burnt < 20 && lines < 10*int((settle+watched)/time.Second) && took < time.Second,
		fmt.Sprintf("%d served, %.0f %% CPU, %s, back in %s", served, burnt, count("line", lines), short(took))}, nil
}

// stay connects, asks, and stays until ctx ends.
func (s *stand) stay(ctx context.Context, there *sync.WaitGroup, answered *atomic.Int64) {
	defer there.Done()
	c, err := s.dial(ctx)
	if err != nil {
		return
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if _, err := c.ask("hello"); err != nil {
		return
	}
	answered.Add(1)
	_, _ = c.readAll()
}

// servedAtLast asks again and again until somebody is served.
func (s *stand) servedAtLast(ctx context.Context, limit time.Duration) (time.Duration, error) {
	begin := time.Now()
	err := poll(ctx, limit, func() error {
		_, _, err := s.served(ctx, limit)
		return err
	})
	return time.Since(begin), err
}

// idleCost: what a connection costs that has carried a line each way and is quiet.
func idleCost(ctx context.Context, s *stand) (verdict, error) {
	const clients, limit = 1000, 5 * time.Second
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	warm, err := s.crowd(ctx, 5)
	if err != nil {
		return verdict{}, err
	}
	defer disperse(warm)
	if !pause(ctx, 500*time.Millisecond) {
		return verdict{}, ctx.Err()
	}
	before := s.cost()
	var all []*client
	defer func() { disperse(all) }()
	// Some peers take their time for each; fewer are enough then.
	for begin := time.Now(); len(all) < clients && time.Since(begin) < limit; {
		c, err := s.opened(ctx)
		if err != nil {
			return verdict{}, err
		}
		all = append(all, c)
	}
	if !pause(ctx, time.Second) {
		return verdict{}, ctx.Err()
	}
	after := s.cost()
	n := float64(len(all))
	descriptors := float64(after.descriptors-before.descriptors) / n
	memory := float64(after.memory-before.memory) / n / 1024
	processes := float64(after.processes-before.processes) / n
	text := fmt.Sprintf("%.1f fd, %.1f KiB", descriptors, memory)
	if processes >= 0.5 {
		text += ", " + count("process", int(processes+0.5))
	}
	return verdict{descriptors < 2.1 && memory < idleMemory, text}, nil
}

// idleMemory, KiB, is above tiproxy's 10 KiB by what a garbage-collected heap
// may grow at once.
const idleMemory = 12

// noServer: nobody can serve. How soon are clients told, and what does the log say?
func noServer(ctx context.Context, s *stand) (verdict, error) {
	const clients, rate = 300, 10 * time.Millisecond
	s.route.server = []string{"/bin/false"}
	if err := s.startProxy(ctx); err != nil {
		return verdict{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 12*time.Second)
	defer cancel()
	times := make(chan time.Duration, clients)
	arrive := time.NewTicker(rate)
	defer arrive.Stop()
	for range clients {
		<-arrive.C
		go s.hopeless(ctx, times)
	}
	var took []time.Duration
	for range clients {
		took = append(took, <-times)
	}
	slices.Sort(took)
	lines := s.proxy.out.count()
	return verdict{lines <= clients/5,
		fmt.Sprintf("told after %s, %s", short(took[clients/2]), count("line", lines))}, nil
}

// hopeless says how long it took until it was told that nobody serves.
func (s *stand) hopeless(ctx context.Context, times chan<- time.Duration) {
	begin := time.Now()
	if c, err := s.dial(ctx); err == nil {
		_, _ = c.ask("hello")
		c.Close()
	}
	times <- time.Since(begin)
}

// burst: 200 clients come while the peer does not run, and all want an answer
// once it does.
func burst(ctx context.Context, s *stand) (verdict, error) {
	const clients = 200
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	warm, err := s.opened(ctx)
	if err != nil {
		return verdict{}, err
	}
	defer warm.Close()
	for _, p := range s.processes() {
		_ = p.signal(syscall.SIGSTOP)
	}
	results := make(chan error, clients)
	for range clients {
		go s.one(ctx, results)
	}
	if !pause(ctx, 300*time.Millisecond) {
		return verdict{}, ctx.Err()
	}
	for _, p := range s.processes() {
		_ = p.signal(syscall.SIGCONT)
	}
	begin, served := time.Now(), 0
	for range clients {
		if err := <-results; err == nil {
			served++
		}
	}
	took := time.Since(begin)
	if served < clients {
		return bad("%d of %d in %s", served, clients, short(took)), nil
	}
	// A SYN that found the backlog full is sent again after 1 s, then 3 s (tcp(7)).
	return verdict{took < 3*time.Second, "last one after " + short(took)}, nil
}

func (s *stand) one(ctx context.Context, results chan<- error) {
	_, _, err := s.served(ctx, 8*time.Second)
	results <- err
}

// resetStorm: clients that are gone before anybody could look at them.
func resetStorm(ctx context.Context, s *stand) (verdict, error) {
	const storm, hands, limit = 10_000, 16, 6 * time.Second
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	warm, err := s.opened(ctx)
	if err != nil {
		return verdict{}, err
	}
	defer warm.Close()
	blow, calm := context.WithTimeout(ctx, limit)
	defer calm()
	var left, done atomic.Int64
	var working sync.WaitGroup
	left.Store(storm)
	for range hands {
		working.Add(1)
		go s.comeAndReset(blow, &working, &left, &done)
	}
	working.Wait()
	took, err := s.servedAtLast(ctx, 8*time.Second)
	if err != nil {
		return bad("after %d: %s", done.Load(), told(err)), nil
	}
	reached, err := s.counted(ctx)
	if err != nil {
		return verdict{}, err
	}
	return verdict{took < time.Second,
		fmt.Sprintf("served in %s, %d of %d reached the server", short(took), reached, done.Load())}, nil
}

func (s *stand) comeAndReset(ctx context.Context, working *sync.WaitGroup, left, done *atomic.Int64) {
	defer working.Done()
	for left.Add(-1) >= 0 && ctx.Err() == nil {
		c, err := s.dial(ctx)
		if err != nil {
			continue
		}
		c.SetLinger(0)
		c.Close()
		done.Add(1)
	}
}

// counted is how many connections the server has seen, without the harness's
// own three.
func (s *stand) counted(ctx context.Context) (int, error) {
	c, err := s.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	answer, err := c.ask("count")
	if err != nil {
		return 0, fmt.Errorf("ask how many connections the server has seen: %w", err)
	}
	n, err := strconv.Atoi(answer)
	return n - 3, err
}

// hoarder: one address opens half again as many connections as the peer takes
// at once, with every means that the peer has against that.
func hoarder(ctx context.Context, s *stand) (verdict, error) {
	s.route.limit, s.route.perSource = 40, 20
	err := s.up(ctx)
	if errors.Is(err, errNoSuchOption) {
		s.route.perSource = 0
		err = s.startProxy(ctx)
	}
	if err != nil {
		return verdict{}, err
	}
	hoard := s.hoard(ctx, 60)
	defer disperse(hoard)
	v, err := s.honest(ctx)
	enough := s.route.limit
	if s.route.perSource > 0 {
		enough = s.route.perSource
	}
	if len(hoard) < enough {
		v = bad("only %d opened in time", len(hoard))
	}
	return v, err
}

// hoard opens n connections, or as many as it gets.
func (s *stand) hoard(ctx context.Context, n int) (hoard []*client) {
	end := time.Now().Add(12 * time.Second)
	for failures := 0; len(hoard) < n && failures < 3 && time.Now().Before(end); {
		soon, cancel := context.WithTimeout(ctx, 2*time.Second)
		c, err := s.dial(soon)
		cancel()
		if err != nil {
			failures++
			continue
		}
		hoard = append(hoard, c)
		c.bound(2 * time.Second)
		if _, err := c.ask("hello"); err != nil {
			failures++
		} else {
			failures = 0
		}
	}
	return hoard
}

// honest is a client of another address.
func (s *stand) honest(ctx context.Context) (verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	begin := time.Now()
	c, err := dialFrom(ctx, "127.0.0.9", s.route.bind)
	if err != nil {
		return bad("the other: %s", told(err)), nil
	}
	defer c.Close()
	if _, err := c.ask("hello"); err != nil {
		if told(err) == "nothing" {
			return bad("the other waits"), nil
		}
		return bad("the other: %s", told(err)), nil
	}
	return okay("the other served in %s", short(time.Since(begin))), nil
}
