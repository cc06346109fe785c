package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// answerBytes is how much of an answer is read.
const answerBytes = 1 << 10

// UnhealthyError is the answer of a tiproxy that is not well.
type UnhealthyError struct {
	Status int    // of HTTP
	Answer string // its first line
}

func (e *UnhealthyError) Error() string {
	return fmt.Sprintf("it answers %d: %s", e.Status, e.Answer)
}

// Check asks the tiproxy that listens at path whether it is well, within ctx.
// The error says what is wrong: an *UnhealthyError if it answered.
func Check(ctx context.Context, path string) error {
	transport := &http.Transport{DialContext: dialer(path).dial, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://tiproxy"+healthPath, nil)
	if err != nil {
		return err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return explain(path, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerBytes))
	if err != nil {
		return fmt.Errorf("read its answer: %w", err)
	}
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return &UnhealthyError{Status: answer.StatusCode, Answer: line}
}

// dialer connects to one socket, whatever host is asked for.
type dialer string

func (d dialer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var plain net.Dialer
	return plain.DialContext(ctx, "unix", string(d))
}

// explain puts a failed question into words.
func explain(path string, err error) error {
	var sys syscall.Errno
	if !errors.As(err, &sys) {
		return fmt.Errorf("ask %s: %w", path, err)
	}
	var hint string
	switch sys {
	case syscall.ENOENT:
		hint = ": is tiproxy running, with --admin unix:" + path + "?"
	case syscall.ECONNREFUSED:
		hint = ": the tiproxy that made it is gone"
	case syscall.EACCES:
		hint = ": only root and the user that tiproxy runs as may ask"
	}
	return fmt.Errorf("ask %s: %w%s", path, sys, hint)
}
