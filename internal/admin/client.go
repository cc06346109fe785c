package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
)

const (
	// answerBytes is how much of an answer is read.
	answerBytes = 64 << 20
	// eventBytes is how much of one event is read.
	eventBytes = 1 << 20
)

// Target is where a tiproxy is asked.
type Target struct {
	Network string // unix or tcp
	Address string // a path, or host:port
	Token   string // for tcp
}

// String returns the target as people write it.
func (t Target) String() string {
	if t.Network == "unix" {
		return "unix:" + t.Address
	}
	return t.Address
}

// Client asks one tiproxy.
type Client struct {
	at   Target
	http *http.Transport
}

// NewClient returns a client. It connects when it is asked for something.
func NewClient(at Target) *Client {
	return &Client{at: at, http: &http.Transport{DialContext: dialer(at).dial}}
}

// Close closes connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// dialer connects to one place, whatever host is asked for.
type dialer Target

func (d dialer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var plain net.Dialer
	return plain.DialContext(ctx, d.Network, d.Address)
}

// Get asks for path and puts the answer into answer. The error is a *Problem if
// tiproxy has answered with one, else it says why there was no answer.
func (c *Client) Get(ctx context.Context, path string, answer any) error {
	return c.exchange(ctx, http.MethodGet, path, answer)
}

// Post is as Get, for what changes something.
func (c *Client) Post(ctx context.Context, path string, answer any) error {
	return c.exchange(ctx, http.MethodPost, path, answer)
}

func (c *Client) exchange(ctx context.Context, method, path string, answer any) error {
	got, err := c.ask(ctx, method, path, "")
	if err != nil {
		return err
	}
	defer got.Body.Close()
	text, err := io.ReadAll(io.LimitReader(got.Body, answerBytes))
	if err != nil {
		return fmt.Errorf("read the answer of %v: %w", c.at, err)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("what answers at %v is no tiproxy that this one understands: %w", c.at, err)
	}
	return nil
}

// ask sends a question and returns an answer with status 200, whose body the
// caller closes.
func (c *Client) ask(ctx context.Context, method, path, last string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+c.host()+path, nil)
	if err != nil {
		return nil, err
	}
	if c.at.Token != "" {
		r.Header.Set("Authorization", "Bearer "+c.at.Token)
	}
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	got, err := c.http.RoundTrip(r)
	if err != nil {
		return nil, c.explain(err)
	}
	if got.StatusCode == http.StatusOK {
		return got, nil
	}
	defer got.Body.Close()
	return nil, readProblem(got)
}

// host is what the other side is called.
func (c *Client) host() string {
	if c.at.Network == "unix" {
		return "tiproxy"
	}
	return c.at.Address
}

// readProblem makes an error of an answer.
func readProblem(got *http.Response) error {
	const most = 64 << 10
	text, err := io.ReadAll(io.LimitReader(got.Body, most))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	p := &Problem{Status: got.StatusCode}
	if json.Unmarshal(text, p) != nil || p.Text == "" {
		p.Text, _, _ = strings.Cut(strings.TrimSpace(string(text)), "\n")
	}
	return p
}

// explain puts a failed question into words.
func (c *Client) explain(err error) error {
	var sys syscall.Errno
	if !errors.As(err, &sys) {
		return fmt.Errorf("ask %v: %w", c.at, err)
	}
	var hint string
	switch {
	case sys == syscall.ENOENT:
		hint = ": is tiproxy running, with --admin " + c.at.String() + "?"
	case sys == syscall.ECONNREFUSED && c.at.Network == "unix":
		hint = ": the tiproxy that made it is gone"
	case sys == syscall.ECONNREFUSED:
		hint = ": is tiproxy running, with --admin " + c.at.String() + " and --admin-token-file?"
	case sys == syscall.EACCES:
		hint = ": only root and the user that tiproxy runs as may ask"
	}
	return fmt.Errorf("ask %v: %w%s", c.at, sys, hint)
}

// Stream asks for a stream of events, those behind the one with the id last if
// that is not "". It lasts until ctx is done, or Close.
func (c *Client) Stream(ctx context.Context, path, last string) (*Stream, error) {
	got, err := c.ask(ctx, http.MethodGet, path, last)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(got.Body)
	lines.Buffer(nil, eventBytes)
	return &Stream{body: got.Body, lines: lines}, nil
}

// Stream is what a Client is told by and by.
type Stream struct {
	body  io.ReadCloser
	lines *bufio.Scanner
}

// Message is one event of a Stream.
type Message struct {
	ID   string // "" = it does not count as one that was seen
	Kind string
	Data []byte // JSON
}

// Next returns the next event. The error is io.EOF at the end.
func (s *Stream) Next() (Message, error) {
	var m Message
	for s.lines.Scan() {
		name, value, _ := bytes.Cut(s.lines.Bytes(), []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "id":
			m.ID = string(value)
		case "event":
			m.Kind = string(value)
		case "data":
			m.Data = append(m.Data, value...)
		}
		if len(s.lines.Bytes()) == 0 && m.Data != nil {
			return m, nil
		}
	}
	if err := s.lines.Err(); err != nil {
		return Message{}, err
	}
	return Message{}, io.EOF
}

// Close ends the stream.
func (s *Stream) Close() error { return s.body.Close() }
