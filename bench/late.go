//go:build linux

package main

import (
	"fmt"
	"net"
	"strconv"
	"time"
)

// serveLate is a child that listens after a delay, and tells each client when
// it was executed and when it listened.
func serveLate(addr, delay string) error {
	d, err := time.ParseDuration(delay)
	if err != nil {
		return err
	}
	time.Sleep(d)
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		return err
	}
	said := []byte(strconv.FormatInt(executed, 10) + " " + strconv.FormatInt(monotonic(), 10) + "\n")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		if _, err := c.Write(said); err != nil {
			return fmt.Errorf("tell the client: %w", err)
		}
		c.Close()
	}
}
