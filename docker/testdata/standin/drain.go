package main

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// listener knows the connections that are open, to end them as TiDB does: at
// once when they are idle, later when a transaction is open or a query runs.
type listener struct {
	net.Listener

	mu   sync.Mutex
	open map[*conn]bool
	gone *sync.Cond // told when a connection has closed; set by drain
}

// Accept hands out connections that can be drained.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	own := &conn{Conn: c, of: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[own] = true
	return own, nil
}

func (l *listener) closed(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
	if l.gone != nil {
		l.gone.Broadcast()
	}
}

// drain takes no new connection, ends the idle ones, and waits up to limit for
// the others before it ends them too.
func (l *listener) drain(limit time.Duration) {
	l.Listener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = sync.NewCond(&l.mu)
	for c := range l.open {
		c.drain()
	}
	cut := time.AfterFunc(limit, l.cut)
	defer cut.Stop()
	for len(l.open) > 0 {
		l.gone.Wait()
	}
}

func (l *listener) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		c.Conn.Close()
	}
}

// conn is one client's. A session is idle while its goroutine waits for the
// next command and no transaction is open: all it had to say is written then.
type conn struct {
	net.Conn
	of     *listener
	closed sync.Once

	mu       sync.Mutex
	busy     bool // a transaction is open
	reading  bool
	draining bool
}

func (c *conn) setBusy(busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = busy
}

func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	if c.reading && !c.busy {
		c.Conn.SetReadDeadline(time.Unix(1, 0)) // ends the Read that waits
	}
}

// Read is the end of a session that is idle and drained.
func (c *conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	if c.draining && !c.busy {
		c.mu.Unlock()
		return 0, io.EOF
	}
	c.reading = true
	c.mu.Unlock()
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	c.reading = false
	c.mu.Unlock()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}

// Close also takes it off the listener's list.
func (c *conn) Close() error {
	c.closed.Do(func() { c.of.closed(c) })
	return c.Conn.Close()
}
