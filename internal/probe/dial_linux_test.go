package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"
)

const portRange = "/proc/sys/net/ipv4/ip_local_port_range"

// TestDialNeverConnectsToItself probes closed ports of the ephemeral range. The
// range is made so small that the kernel would choose the port itself every few
// dozen times; one connection to itself would keep the child from binding for
// the 60 s of its TIME_WAIT. Left alone, connect(2) prefers ports of the parity
// of the range's first, and bind(2) the others, so both are tried.
func TestDialNeverConnectsToItself(t *testing.T) {
	needNamespace(t)
	const first, last, probes = 40000, 40063, 2500
	old, err := os.ReadFile(portRange)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(portRange, fmt.Appendf(nil, "%d %d", first, last), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(portRange, old, 0) })
	sameDescriptors(t)
	for network, host := range map[string]string{"tcp4": "127.0.0.1", "tcp6": "::1"} {
		avoided := 0
		for _, port := range []uint16{40030, 40031} {
			dest := tcpDest(host, port)
			d, h := &Dial{Dest: dest}, asking(t, "http://"+dest.String())
			avoided += probeClosed(t, network, dest, probes, d.attempt)
			avoided += probeClosed(t, network, dest, probes, func(ctx context.Context) (net.Addr, error) {
				_, err := h.connect(ctx, time.Now().Add(bound))
				return nil, err
			})
		}
		if avoided == 0 {
			t.Errorf("%s: the kernel never chose the port, so this test shows little", network)
		}
	}
}

// probeClosed connects n times to a port where nobody listens, and checks that a
// child could bind then. It returns how often the kernel chose that port itself.
func probeClosed(t *testing.T, network string, dest Dest, n int, attempt func(context.Context) (net.Addr, error)) (avoided int) {
	t.Helper()
	for range n {
		_, err := attempt(t.Context())
		if err == nil {
			t.Fatalf("connected to %s, where nobody listens", dest)
		}
		if errors.Is(err, errOwnPort) {
			avoided++
		}
	}
	ln, err := net.Listen(network, dest.String())
	if err != nil {
		t.Fatalf("the child cannot bind: %v", err)
	}
	ln.Close()
	return avoided
}
