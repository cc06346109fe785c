//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// executed is when this program was executed: now, before anything else of it
// runs, less the processor time that its first thread has taken so far. That is
// what the kernel's exec and Go's runtime take; nothing in them waits.
var executed = monotonic() - clock(unix.CLOCK_THREAD_CPUTIME_ID)

// play is what this program does as somebody's child: it sends bulk, is a child
// that listens late, or is the clients.
func play(words []string) int {
	err := fmt.Errorf("no such role: %q", words)
	switch {
	case len(words) == 2 && words[0] == "flood":
		err = serveFlood(words[1])
	case len(words) == 3 && words[0] == "late":
		err = serveLate(words[1], words[2])
	case len(words) == 1 && words[0] == "clock":
		_, err = fmt.Println(executed)
	case len(words) == 2 && words[0] == "load":
		err = playLoad(words[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return statusUnable
	}
	return statusFine
}

// monotonic is CLOCK_MONOTONIC in nanoseconds, which all processes share.
func monotonic() int64 { return clock(unix.CLOCK_MONOTONIC) }

func clock(which int32) int64 {
	var now unix.Timespec
	if unix.ClockGettime(which, &now) != nil {
		return 0 // cannot fail for these clocks: clock_gettime(2)
	}
	return now.Nano()
}

// serveFlood sends without end to everybody who says something.
func serveFlood(addr string) error {
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go pour(c)
	}
}

// pour ends when the client closes.
func pour(c net.Conn) {
	defer c.Close()
	chunk := make([]byte, 256<<10)
	if _, err := c.Read(chunk[:16]); err != nil {
		return
	}
	for {
		if _, err := c.Write(chunk); err != nil {
			return
		}
	}
}

// playLoad does what words say, prints what came of it, and ends when its
// standard input does.
func playLoad(words string) error {
	var l load
	if err := json.Unmarshal([]byte(words), &l); err != nil {
		return err
	}
	tell := func(t tally) error { return json.NewEncoder(os.Stdout).Encode(t) }
	return l.play(tell, func() { _, _ = io.Copy(io.Discard, os.Stdin) })
}
