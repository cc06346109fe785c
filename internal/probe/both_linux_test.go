package probe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestBothNeedsTheChildsOwnSocketThatTakesConnections(t *testing.T) {
	sameDescriptors(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dest := tcpDest("127.0.0.1", netip.MustParseAddrPort(ln.Addr().String()).Port())
	b := &Both{Listen: &Listen{Dest: dest}, Dial: &Dial{Dest: dest}}
	wait := func(tree Tree) (net.Addr, error) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 4*short, errOver)
		defer cancel()
		return b.Wait(ctx, tree)
	}
	ours := pidTree{os.Getpid()}
	if addr, err := wait(ours); err != nil || addr.String() != dest.String() {
		t.Errorf("Wait = %v, %v; want %s", addr, err, dest)
	}
	// A stranger would take Dial's connection.
	var stranger *StrangerError
	if _, err := wait(pidTree{}); !errors.As(err, &stranger) || !errors.Is(err, errOver) {
		t.Errorf("Wait = %v, want it to name the stranger", err)
	}
	if err := b.Before(t.Context()); !errors.As(err, &stranger) {
		t.Errorf("Before = %v, want it to name the stranger", err)
	}
	// The child's socket alone does not do.
	b.Dial.Dest = tcpDest("127.0.0.1", closedPort(t, "tcp", "127.0.0.1:0"))
	if _, err := wait(ours); err == nil || !strings.Contains(err.Error(), "nothing takes connections on") {
		t.Errorf("Wait = %v, want Dial's error", err)
	}
}
