package admin

import (
	"net"
	"sync"
)

// limited is a listener that has a number of connections at most.
type limited struct {
	net.Listener
	places  chan struct{} // holds one for every connection
	closing sync.Once
	closed  chan struct{}
}

func newLimited(l net.Listener, most int) *limited {
	return &limited{Listener: l, places: make(chan struct{}, most), closed: make(chan struct{})}
}

// Accept implements net.Listener. It waits for a place first.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &placed{Conn: c, places: l.places}, nil
}

// Close implements net.Listener.
func (l *limited) Close() error {
	l.closing.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// placed is a connection that has a place.
type placed struct {
	net.Conn
	places  chan struct{}
	closing sync.Once
}

// Close implements net.Conn.
func (c *placed) Close() error {
	c.closing.Do(func() { <-c.places })
	return c.Conn.Close()
}
