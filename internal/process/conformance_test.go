//go:build linux

package process

import (
	"context"
	"net"
	"regexp"
	"slices"
	"syscall"
	"testing"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
	"tiproxy/internal/probe"
)

func TestConformance(t *testing.T) {
	conforms(t, func(r *rig) func(pooltest.Behaviour) pool.Resource { return r.behave })
}

// However readiness is recognised, a life keeps the rules.
func TestConformanceOfGates(t *testing.T) {
	for name, gates := range map[string]func(r *rig, never bool) Gates{
		"log":    func(*rig, bool) Gates { return Gates{Lines: []*regexp.Regexp{regexp.MustCompile(`^ready \d+$`)}} },
		"notify": func(*rig, bool) Gates { return Gates{Notify: true} },
		"exec": func(r *rig, never bool) Gates {
			args := r.self("parent", "setsid", "wait") // a check that hangs, with a child that has left
			if !never {
				args = r.self("exit", "0")
			}
			return Gates{Commands: []Check{{Name: "check", Path: r.command(args...).Path, Args: args}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			conforms(t, func(r *rig) func(pooltest.Behaviour) pool.Resource {
				return func(b pooltest.Behaviour) pool.Resource {
					res := r.behave(b).(*Resource)
					res.prober = fakeProber{}
					res.cmd.Gates = gates(r, b == pooltest.NeverReady)
					return res
				}
			})
		})
	}
}

func conforms(t *testing.T, maker func(r *rig) func(pooltest.Behaviour) pool.Resource) {
	pooltest.TestResource(t, func(t *testing.T) pooltest.Harness {
		r := newRig(t)
		return pooltest.Harness{
			Make: maker(r),
			End:  func(l pool.Life) { r.askToEnd(l.(*life).Pid()) },
			Alive: func(l pool.Life) bool {
				_, exists := readProc(l.(*life).Pid())
				return exists || slices.ContainsFunc(bearers(r.token), func(pid int) bool {
					mark, _ := readMark(pid)
					return mark == l.(*life).tree.mark
				})
			},
		}
	})
}

// behave returns a resource of our own binary. Its lives print a line when they
// are ready, and end with status 0 on SIGUSR1.
func (r *rig) behave(b pooltest.Behaviour) pool.Resource {
	mode := map[pooltest.Behaviour][]string{
		pooltest.Obedient:   {"until", "ready"},
		pooltest.NeverReady: {"until", "never"},
		pooltest.Stubborn:   {"until", "ready", "ignore"},
		pooltest.Parent:     {"until", "ready", "parent"},
	}[b]
	cmd := r.command(r.self(mode...)...)
	cmd.StopTimeout = time.Minute
	if b == pooltest.Broken {
		cmd.Path = "/no/such/program"
	}
	return NewResource(r.host, cmd, fakeProber{wait: r.untilPrinted}, nil)
}

// askToEnd asks once the child listens to signals, which it says: before that
// the Go runtime would throw the signal away.
func (r *rig) askToEnd(pid int) {
	eventually(r.t, "the child listens to signals", func() bool {
		return !isAlive(pid) || slices.Contains(append(r.out.numbers("ready"), r.out.numbers("never")...), pid)
	})
	_ = syscall.Kill(pid, syscall.SIGUSR1)
}

// untilPrinted waits until the child said that it is ready.
func (r *rig) untilPrinted(ctx context.Context, tree probe.Tree) (net.Addr, error) {
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		if slices.Contains(r.out.numbers("ready"), tree.Pids()[0]) {
			return &net.TCPAddr{}, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
