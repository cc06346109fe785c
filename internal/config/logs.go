package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Logs is where a child's output goes.
type Logs struct {
	File string // absolute; "" = on to tiproxy's own output
	Size int64  // the file is rotated when it has grown to this, in bytes; 0 = never
	Keep int    // rotated files that are kept
}

// What may be written for logs, and what holds if nothing is.
const (
	LogsOutput = "output"
	LogsFile   = "file:"

	DefaultLogsSize = "10MiB"
	DefaultLogsKeep = "3"
)

// logs reads where the output goes. name is the service's.
func (c *checker) logs(t Text, name string) (l Logs) {
	size := parsed(c, t.LogsSize, DefaultLogsSize, parseSize)
	keep := parsed(c, t.LogsKeep, DefaultLogsKeep, parseNumber)
	path, isFile := strings.CutPrefix(t.Logs.Text, LogsFile)
	switch {
	case t.Logs.broken:
		return l
	case !t.Logs.Given || t.Logs.Text == LogsOutput:
		for _, v := range []Value{t.LogsSize, t.LogsKeep} {
			if v.Given && !v.shared {
				c.report(v, errors.New("is about a file, but the output goes to none: add for example logs: file:/var/log/tiproxy/"))
			}
		}
		return l
	case !isFile:
		c.report(t.Logs, fmt.Errorf("%q is not known: write output, or a file such as file:/var/log/tiproxy/%s.log", excerpt(t.Logs.Text), name))
		return l
	case path == "":
		c.report(t.Logs, fmt.Errorf("%q has no path: write for example file:/var/log/tiproxy/%s.log", t.Logs.Text, name))
		return l
	}
	if strings.HasSuffix(path, "/") {
		path += name + ".log"
	}
	path, err := filepath.Abs(path)
	if err == nil {
		err = checkLogFile(path)
	}
	c.report(t.Logs, err)
	return Logs{File: path, Size: size, Keep: keep}
}

// checkLogFile says why there could be no file at path to write to.
func checkLogFile(path string) error {
	if hasNUL(path) {
		return fmt.Errorf("%q contains a NUL byte: write the path of a file", path)
	}
	switch info, err := os.Stat(path); {
	case err == nil && info.IsDir():
		return fmt.Errorf("%s is a directory: write %s%s/ for a file of the service's name in it", path, LogsFile, path)
	case err == nil && !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file, so it cannot be rotated: write the path of one", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s cannot be used: %w", path, cause(err))
	}
	dir := filepath.Dir(path)
	if err := checkDir(dir); err != nil {
		return err
	}
	for _, what := range []string{dir, path} { // it is rotated by what is done in its directory
		if err := syscall.Access(what, writeAccess); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s cannot be written to: %w: write another place, or let this user write there", what, err)
		}
	}
	return nil
}

// writeAccess is W_OK of access(2).
const writeAccess = 2

// parseSize reads a number of bytes at which a file is rotated.
func parseSize(s string) (int64, error) {
	const least = 4096
	n, err := ParseAmount(s)
	switch {
	case err != nil:
		return 0, err
	case n.N != 0 && !n.Bytes:
		return 0, fmt.Errorf("%q has no unit: write for example %s, or 0", s, DefaultLogsSize)
	case n.N != 0 && n.N < least:
		return 0, fmt.Errorf("%q is too small for a file: write 4KiB or more, or 0", s)
	}
	return n.N, nil
}

// parseNumber reads a number of at least 0.
func parseNumber(s string) (int, error) {
	const most = 1000
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("%q is not a whole number from 0 to %d: write for example %s", excerpt(s), most, DefaultLogsKeep)
	}
	return n, nil
}
