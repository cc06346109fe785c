package proxy

import (
	"io"
	"net"
	"testing"

	"tiproxy/internal/pool"
)

// benchHouse returns where to connect: to the child, or to a server before it.
func benchHouse(b *testing.B, proxied bool, serve func(net.Conn)) (addr string) {
	b.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	l := newLife(ln, serve)
	if !proxied {
		go l.accept()
		b.Cleanup(func() { ln.Close() })
		return ln.Addr().String()
	}
	c := newChild(nil)
	c.will(l)
	s := New(pool.New(c, pool.Config{}), Config{})
	bind, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go s.Serve(bind)
	b.Cleanup(func() { s.Reset(); ln.Close() })
	return bind.Addr().String()
}

// both runs a benchmark directly and through the server.
func both(b *testing.B, serve func(net.Conn), run func(b *testing.B, addr string)) {
	for name, proxied := range map[string]bool{"direct": false, "proxied": true} {
		b.Run(name, func(b *testing.B) {
			addr := benchHouse(b, proxied, serve)
			b.ResetTimer()
			run(b, addr)
		})
	}
}

func benchDial(b *testing.B, addr string) net.Conn {
	c, err := net.Dial("tcp4", addr)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func BenchmarkBulk(b *testing.B) {
	chunk := make([]byte, 256<<10)
	flood := func(c net.Conn) {
		defer c.Close()
		for {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	}
	both(b, flood, func(b *testing.B, addr string) {
		c := benchDial(b, addr)
		defer c.Close()
		into := make([]byte, 256<<10)
		b.SetBytes(1 << 20)
		for b.Loop() {
			for got := 0; got < 1<<20; {
				n, err := c.Read(into)
				if err != nil {
					b.Fatal(err)
				}
				got += n
			}
		}
	})
}

func BenchmarkPingPong(b *testing.B) {
	both(b, echo, func(b *testing.B, addr string) {
		c := benchDial(b, addr)
		defer c.Close()
		msg := make([]byte, 100)
		for b.Loop() {
			if _, err := c.Write(msg); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(c, msg); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkConnect(b *testing.B) {
	both(b, echo, func(b *testing.B, addr string) {
		msg := make([]byte, 100)
		for b.Loop() {
			c := benchDial(b, addr)
			if _, err := c.Write(msg); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(c, msg); err != nil {
				b.Fatal(err)
			}
			c.Close()
		}
	})
}
