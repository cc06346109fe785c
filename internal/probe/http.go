package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// A start of tens of milliseconds is waited for by a client, so the first
	// pauses are short; one that takes seconds is asked four times a second,
	// which no access log minds.
	httpFirst = 10 * time.Millisecond
	httpLast  = 250 * time.Millisecond

	// An attempt gets a second, and each that was too short makes the next one
	// longer: what a server answers for the first time may take it seconds.
	httpTimeout     = time.Second
	httpTimeoutMost = 5 * time.Second

	// headMost bounds the head of an answer, bodyMost and bodyTime what is read
	// of its body for no other reason than to end the connection in peace.
	headMost = 64 << 10
	bodyMost = 4 << 10
	bodyTime = 50 * time.Millisecond
)

// userAgent names us in the child's access log.
const userAgent = "tiproxy-ready"

// HTTP asks a URL of the child's whether the child is ready: it is when the
// answer is 200 to 399. A redirect is an answer and not followed. No proxy is
// asked, whatever the environment says, and each request has a connection of
// its own, which is closed. An HTTP is ready for use by several goroutines.
type HTTP struct {
	URL *url.URL // with the scheme http and a host

	first time.Duration // the first attempt's time, for tests; 0 = httpTimeout
}

// Wait asks again and again until the answer is good. When ctx ends first, the
// error wraps its cause and says what the last answer was.
func (h *HTTP) Wait(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	var last error
	limit := h.first
	if limit == 0 {
		limit = httpTimeout
	}
	for wait := httpFirst; ; wait = min(2*wait, httpLast) {
		err := h.attempt(ctx, limit)
		if err == nil {
			return nil
		}
		// An attempt that ctx cut short says nothing about the child.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			limit = min(2*limit, httpTimeoutMost)
		}
		if !sleep(ctx, timer, wait) {
			return fmt.Errorf("%w: %w", last, context.Cause(ctx))
		}
	}
}

// attempt makes one request.
func (h *HTTP) attempt(ctx context.Context, limit time.Duration) error {
	code, err := h.ask(ctx, limit)
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("%s has not answered yet", h.URL.Redacted())
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s does not answer within %v: %w", h.URL.Redacted(), limit, os.ErrDeadlineExceeded)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%s closes the connection without an answer", h.URL.Redacted())
	case err != nil:
		return fmt.Errorf("%s does not answer: %s", h.URL.Redacted(), brief(err))
	case code < 200 || code > 399:
		return fmt.Errorf("%s answers %s", h.URL.Redacted(), status(code))
	}
	return nil
}

// status is a status in words of ours: what the server says may be anything.
func status(code int) string {
	if text := http.StatusText(code); text != "" {
		return strconv.Itoa(code) + " " + text
	}
	return strconv.Itoa(code)
}

// brief cuts an error short that may hold what the server has sent.
func brief(err error) string {
	const most = 200
	text := err.Error()
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}

// ask returns the status of the answer to one request.
func (h *HTTP) ask(ctx context.Context, limit time.Duration) (code int, err error) {
	end := time.Now().Add(limit)
	conn, err := h.connect(ctx, end)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	unhook := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer unhook()
	req := &http.Request{Method: http.MethodGet, URL: h.URL, Host: h.URL.Host, Close: true, Header: http.Header{
		"User-Agent": {userAgent},
		"Accept":     {"*/*"},
	}}
	if u := h.URL.User; u != nil {
		password, _ := u.Password()
		req.SetBasicAuth(u.Username(), password)
	}
	if err := req.Write(conn); err != nil {
		return 0, err
	}
	return finalStatus(conn, req)
}

// finalStatus reads the answer. Informational ones (1xx) come before it
// (RFC 9110, section 15.2).
func finalStatus(conn net.Conn, req *http.Request) (int, error) {
	limited := &io.LimitedReader{R: conn, N: headMost}
	r := bufio.NewReader(limited)
	for {
		resp, err := http.ReadResponse(r, req)
		switch {
		case err != nil && limited.N <= 0:
			return 0, fmt.Errorf("the head of its answer is longer than %d bytes", headMost)
		case errors.Is(err, io.ErrUnexpectedEOF):
			return 0, io.EOF
		case err != nil:
			return 0, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			// To close with input unread would reset the connection.
			_ = conn.SetReadDeadline(time.Now().Add(bodyTime))
			_, _ = io.CopyN(io.Discard, resp.Body, bodyMost)
			return resp.StatusCode, nil
		}
	}
}

// connect connects to the URL's host, to the first of its addresses that takes
// the connection.
func (h *HTTP) connect(ctx context.Context, end time.Time) (net.Conn, error) {
	ctx, cancel := context.WithDeadlineCause(ctx, end, os.ErrDeadlineExceeded)
	defer cancel()
	dest := Dest{Network: "tcp", Host: h.URL.Hostname(), Port: 80}
	if port, err := strconv.ParseUint(h.URL.Port(), 10, 16); err == nil {
		dest.Port = uint16(port)
	}
	all, failed := dest.resolve(ctx)
	for _, ap := range all {
		conn, err := open(ctx, net.TCPAddrFromAddrPort(ap), notFromPort(ap))
		if err == nil {
			_ = conn.SetDeadline(end) // fails for closed connections only
			return conn, nil
		}
		if failed != nil {
			err = fmt.Errorf("%w; %w", failed, err)
		}
		failed = err
	}
	if errors.Is(failed, context.DeadlineExceeded) {
		<-ctx.Done() // the dialer keeps to the deadline by a clock of its own
	}
	if ctx.Err() != nil {
		failed = context.Cause(ctx)
	}
	return nil, failed
}
