package probe

import (
	"context"
	"net"
	"testing"
)

// Until accept(2) the other end is nobody's, whatever kind of listener it is.
func TestTaken(t *testing.T) {
	for name, c := range map[string]struct {
		network, bind, dial string
		mptcp               bool
	}{
		"IPv4":                  {"tcp4", "127.0.0.1:0", "127.0.0.1", false},
		"IPv6":                  {"tcp6", "[::1]:0", "::1", false},
		"IPv4 on a dual socket": {"tcp", "[::]:0", "127.0.0.1", false},
		"MPTCP listener":        {"tcp4", "127.0.0.1:0", "127.0.0.1", true},
	} {
		t.Run(name, func(t *testing.T) {
			var lc net.ListenConfig
			lc.SetMultipathTCP(c.mptcp)
			ln, err := lc.Listen(context.Background(), c.network, c.bind)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			_, port, err := net.SplitHostPort(ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			nc := dialPlain(t, net.JoinHostPort(c.dial, port))
			defer nc.Close()
			if taken, known := Taken(nc); taken || !known {
				t.Errorf("in the backlog: taken %v, known %v", taken, known)
			}
			other, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if taken, known := Taken(nc); !taken || !known {
				t.Errorf("accepted: taken %v, known %v", taken, known)
			}
			// A program that takes a connection and closes it has taken it.
			other.Close()
			if taken, known := Taken(nc); known && !taken {
				t.Error("closed by the program: not taken")
			}
		})
	}
}

func TestTakenIsNotKnown(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nc := dialPlain(t, ln.Addr().String())
	defer nc.Close()
	ln.Close() // resets what is in its backlog
	if taken, known := Taken(nc); taken || known {
		t.Errorf("of a connection that was reset: taken %v, known %v", taken, known)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if taken, known := Taken(a); taken || known {
		t.Errorf("of a pipe: taken %v, known %v", taken, known)
	}
}

// dialPlain connects as the proxy does.
func dialPlain(t *testing.T, addr string) net.Conn {
	t.Helper()
	var d net.Dialer
	d.SetMultipathTCP(false)
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return nc
}

func BenchmarkTaken(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	for b.Loop() {
		Taken(nc)
	}
}
