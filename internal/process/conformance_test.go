//go:build linux

package process

import (
	"context"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"tiproxy/internal/pool"
	"tiproxy/internal/pool/pooltest"
	"tiproxy/internal/probe"
)

func TestConformance(t *testing.T) {
	pooltest.TestResource(t, func(t *testing.T) pooltest.Harness {
		r := newRig(t)
		return pooltest.Harness{
			Make: r.behave,
			End:  func(l pool.Life) { _ = syscall.Kill(l.(*life).Pid(), syscall.SIGUSR1) },
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
