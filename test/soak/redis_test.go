//go:build linux

package soak

import (
	"bytes"
	"fmt"
	"io"
)

// askRedis is exchange with redis-server: what is stored must come back. Its
// protocol is RESP2; the key is the client's own.
func (c *client) askRedis(a ask) error {
	value := make([]byte, a.Up)
	if _, err := io.ReadFull(a.upStream(), value); err != nil {
		return err
	}
	c.lost += 2 * a.Up // until it has arrived there, and come back
	key := fmt.Sprintf("soak:%d:%d", c.number, a.Seed)
	set := fmt.Appendf(nil, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n", len(key), key, len(value))
	if err := c.redisCall(append(append(set, value...), "\r\n"...), []byte("+OK\r\n")); err != nil {
		return err
	}
	c.lost -= a.Up
	c.up += a.Up
	get := fmt.Appendf(nil, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(key), key)
	want := fmt.Appendf(nil, "$%d\r\n%s\r\n", len(value), value)
	if err := c.redisCall(get, want); err != nil {
		return err
	}
	c.lost -= a.Up
	c.down += a.Up
	return c.redisCall(fmt.Appendf(nil, "*2\r\n$3\r\nDEL\r\n$%d\r\n%s\r\n", len(key), key), []byte(":1\r\n"))
}

// redisCall sends a command and wants an answer.
func (c *client) redisCall(command, want []byte) error {
	sent := make(chan error, 1)
	go func() { sent <- c.sendAll(bytes.NewReader(command), int64(len(command))) }()
	err := c.compare(bytes.NewReader(want), int64(len(want)), func(int64) {})
	if err != nil {
		c.conn.Close() // the sender has no reason to go on
	}
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	return err
}
