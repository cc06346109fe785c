//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

const (
	standTime  = 10 * time.Second // until the first answer
	standTries = 3                // somebody else may have taken the port
)

// stand is a server, and a subject in front of it.
type stand struct {
	route
	proxy, server *program // nil where there is none
	answer        int      // length of the server's answer in bytes
}

// newStand starts both, and returns when the first request was answered.
func newStand(ctx context.Context, dir string, s subject, to server) (*stand, error) {
	var err error
	for range standTries {
		var st *stand
		if st, err = tryStand(dir, s, to); err != nil {
			continue
		}
		if err = st.await(ctx, to); err == nil {
			return st, nil
		}
		err = fmt.Errorf("%s in front of %s: %w", s.name, to.name, err)
		st.close()
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func tryStand(dir string, s subject, to server) (st *stand, err error) {
	st = &stand{route: route{bulk: to.name == flood.name}}
	defer func() {
		if err != nil {
			st.close()
		}
	}()
	if st.dir, err = os.MkdirTemp(dir, "stand-"); err != nil {
		return nil, err
	}
	if err = os.Chmod(st.dir, 0o755); err != nil {
		return nil, err
	}
	if st.bind, st.dest, err = freePorts(); err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(st.dest)
	if err != nil {
		return nil, err
	}
	if st.route.server, err = to.command(st.dir, port); err != nil {
		return nil, err
	}
	if !s.starts {
		if st.server, err = spawn(st.dir, st.route.server); err != nil {
			return nil, err
		}
	}
	if s.command == nil {
		st.bind = st.dest
		return st, nil
	}
	line, err := s.command(st.route)
	if err != nil {
		return nil, err
	}
	st.proxy, err = spawn(st.dir, line)
	return st, err
}

// freePorts returns two addresses on which nobody listens.
func freePorts() (one, other string, err error) {
	var both [2]string
	for i := range both {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return "", "", err
		}
		defer l.Close() // both are held until both are known
		both[i] = l.Addr().String()
	}
	return both[0], both[1], nil
}

// close stops both and removes their files.
func (st *stand) close() {
	st.proxy.stop()
	st.server.stop()
	if st.dir != "" {
		os.RemoveAll(st.dir)
	}
}

// await asks until there is an answer.
func (st *stand) await(ctx context.Context, to server) error {
	ctx, cancel := context.WithTimeout(ctx, standTime)
	defer cancel()
	for {
		n, err := ask(st.bind, to.request)
		if err == nil {
			st.answer = n
			return nil
		}
		for _, p := range []*program{st.proxy, st.server} {
			if p != nil && p.ended() {
				return fmt.Errorf("%s has ended: %s", p.cmd.Args[0], p.lastWords())
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ask returns how long the answer to a request is: what comes until nothing
// comes for a while, or in one read if it never stops.
func ask(addr, request string) (int, error) {
	c, err := net.DialTimeout("tcp4", addr, time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := c.Write([]byte(request)); err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	sum, err := c.Read(buf)
	if err != nil {
		return 0, err
	}
	for sum < len(buf) {
		if err := c.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			return 0, err
		}
		n, err := c.Read(buf[sum:])
		if err != nil {
			break
		}
		sum += n
	}
	return sum, nil
}
