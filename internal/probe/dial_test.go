package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
)

func closedPort(t *testing.T, network, addr string) uint16 {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return netip.MustParseAddrPort(ln.Addr().String()).Port()
}

func TestDialWaitsForTheListener(t *testing.T) {
	for network, host := range map[string]string{"tcp4": "127.0.0.1", "tcp6": "::1"} {
		port := closedPort(t, network, net.JoinHostPort(host, "0"))
		d := &Dial{Dest: Dest{Network: "tcp", Host: host, Port: port}}
		dialBecomesReady(t, d, network, d.Dest.String())
	}
	path := t.TempDir() + "/app.sock"
	dialBecomesReady(t, &Dial{Dest: Dest{Network: "unix", Path: path}}, "unix", path)
}

func dialBecomesReady(t *testing.T, d *Dial, network, bind string) {
	t.Helper()
	if err := d.Before(t.Context()); err != nil {
		t.Errorf("Before = %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), short)
	_, err := d.Wait(ctx, nil)
	cancel()
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "last attempt: ") {
		t.Errorf("%s: Wait = %v, want the context's end and the last attempt's error", network, err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), bound)
	defer cancel()
	waited := make(chan net.Addr, 1)
	go dialWait(ctx, t, d, waited)
	ln, err := net.Listen(network, bind)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if addr := <-waited; addr == nil || addr.String() != bind {
		t.Errorf("Wait = %v, want %s", addr, bind)
	}
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the probe's connection gave %d bytes, %v; want it closed", n, err)
	}
}

func dialWait(ctx context.Context, t *testing.T, d *Dial, waited chan<- net.Addr) {
	addr, err := d.Wait(ctx, nil)
	if err != nil {
		t.Errorf("Wait: %v", err)
	}
	waited <- addr
}

func TestDialEndsWithItsContext(t *testing.T) {
	gone := errors.New("the child has ended")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	// RFC 5737: nobody answers there.
	d := &Dial{Dest: Dest{Network: "tcp", Host: "192.0.2.1", Port: 9}}
	if _, err := d.Wait(ctx, nil); !errors.Is(err, gone) {
		t.Errorf("Wait = %v, want it to wrap %v", err, gone)
	}
}

func TestDestString(t *testing.T) {
	tests := []struct {
		dest Dest
		want string
	}{
		{Dest{Network: "tcp", Host: "127.0.0.1", Port: 3000}, "127.0.0.1:3000"},
		{Dest{Network: "tcp", Host: "::1", Port: 3000}, "[::1]:3000"},
		{Dest{Network: "tcp", Host: "db", Port: 1}, "db:1"},
		{Dest{Network: "unix", Path: "/run/app.sock"}, "unix:/run/app.sock"},
	}
	for _, tt := range tests {
		if got := tt.dest.String(); got != tt.want {
			t.Errorf("String() = %q, want %q", got, tt.want)
		}
	}
}

func TestStrangerErrorSaysWhatIsRight(t *testing.T) {
	tcp := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 3000}
	tests := []struct {
		err  StrangerError
		want []string
	}{
		{StrangerError{Addr: tcp, PID: 12, Name: "ncat", UID: 7}, []string{"127.0.0.1:3000 is taken by process 12 (ncat, uid 7)", "another port", "--ready dial"}},
		{StrangerError{Addr: tcp, UID: 7}, []string{"by a process of uid 7"}},
		{StrangerError{Addr: &net.UnixAddr{Net: "unix", Name: "/x"}}, []string{"unix:/x is taken", "another path"}},
	}
	for _, tt := range tests {
		for _, want := range tt.want {
			if got := tt.err.Error(); !strings.Contains(got, want) {
				t.Errorf("Error() = %q, want it to contain %q", got, want)
			}
		}
	}
	if got := fmt.Sprint(&tests[1].err); strings.Contains(got, "process 0") {
		t.Errorf("Error() = %q", got)
	}
}
