package main

import (
	"sync/atomic"

	"tiproxy/internal/config"
	"tiproxy/internal/output"
)

// logFile is the file to which a service's child prints, if its settings name
// one, in place of tiproxy's own output. The zero value is none.
type logFile struct{ now atomic.Pointer[output.File] }

// keepLogs has the child's output go where the settings want it from now on.
func (v *service) keepLogs(l config.Logs) {
	var next *output.File
	if l.File != "" {
		next = output.NewFile(output.FileConfig{Path: l.File, Size: l.Size, Keep: l.Keep, Log: v.log})
	}
	v.logFile.replace(next)
}

// replace puts another file, or none, in the place of the one there is.
func (f *logFile) replace(next *output.File) {
	if old := f.now.Swap(next); old != nil {
		old.Close()
	}
}
