package main

import (
	"io"
	"sync/atomic"

	"tiproxy/internal/output"
)

// outlet is where the output of one child goes: as it is while the program has
// one service, line by line and with a name while it has several, or to a file.
type outlet struct {
	plain   io.Writer
	named   *output.Prefix
	several *atomic.Bool
	file    *logFile
}

// Write passes on what the child has written.
func (o *outlet) Write(p []byte) (int, error) {
	if f := o.file.now.Load(); f != nil {
		return f.Write(p)
	}
	if o.several.Load() {
		return o.named.Write(p)
	}
	return o.plain.Write(p)
}
