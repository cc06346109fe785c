//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// keepalive: what the kernel does for both legs when nothing is said.
func keepalive(ctx context.Context, s *stand) (verdict, error) {
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	c, err := s.opened(ctx)
	if err != nil {
		return verdict{}, err
	}
	defer c.Close()
	var legs [2]string
	err = poll(ctx, 3*time.Second, func() (err error) {
		legs, err = s.timers()
		return err
	})
	if err != nil {
		return verdict{}, err
	}
	switch {
	case legs[0] != "" && legs[1] != "":
		return okay("both legs, after %s", strings.Join(slices.Compact(legs[:]), " and ")), nil
	case legs[0] != "":
		return bad("client's leg only, after %s", legs[0]), nil
	case legs[1] != "":
		return bad("server's leg only, after %s", legs[1]), nil
	}
	return bad("on neither leg"), nil
}

// timers are when the kernel will probe the peer's two legs, "" for never. An
// error says that there is something to acknowledge still.
func (s *stand) timers() (legs [2]string, err error) {
	out, err := output("ss", "-Htno", "state", "established")
	if err != nil {
		return legs, fmt.Errorf("ss: %w: %s", err, out)
	}
	seen := 0
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 || strings.Contains(line, "timer:(on") {
			return legs, errors.New("the connection is not quiet")
		}
		for i, leg := range []bool{portOf(f[2]) == s.route.bindPort(), portOf(f[3]) == portOf(s.route.dest)} {
			if leg {
				seen++
				legs[i] = keepaliveTimer(line)
			}
		}
	}
	if seen != 2 {
		return legs, fmt.Errorf("ss shows %d legs instead of 2:\n%s", seen, out)
	}
	return legs, nil
}

// keepaliveTimer reads "timer:(keepalive,14sec,0)" or "…,119min,0)": the time
// to the first probe, which has begun to run, so it is rounded up.
func keepaliveTimer(line string) string {
	_, rest, ok := strings.Cut(line, "timer:(keepalive,")
	if !ok {
		return ""
	}
	left, _, _ := strings.Cut(rest, ",")
	d, err := time.ParseDuration(strings.NewReplacer("min", "m", "sec", "s").Replace(left))
	switch {
	case err != nil:
		return left
	case strings.HasSuffix(left, "min"):
		return short(d + time.Minute)
	default:
		return short(d.Truncate(time.Second) + time.Second)
	}
}

// smallMessages: two small messages to and two from the server in each round:
// what Nagle's algorithm and delayed acknowledgements make slow.
func smallMessages(ctx context.Context, s *stand) (verdict, error) {
	const rounds = 120
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	c, err := s.asking(ctx, "pair")
	if err != nil {
		return verdict{}, err
	}
	defer c.Close()
	took, err := series(c, rounds)
	if err != nil {
		return bad("%s", told(err)), nil
	}
	// A few may be a busy moment of the machine.
	stalled := longer(took, stall)
	return verdict{stalled <= rounds/20, fmt.Sprintf("median %s, %d of %d stalled", short(took[rounds/2]), stalled, rounds)}, nil
}

// stall is less than a delayed acknowledgement takes, 40 ms (TCP_DELACK_MIN),
// and more than anything else should.
const stall = 30 * time.Millisecond

// series is how long n rounds took, sorted.
func series(c *client, n int) ([]time.Duration, error) {
	took := make([]time.Duration, n)
	for i := range took {
		begin := time.Now()
		if err := round(c); err != nil {
			return nil, err
		}
		took[i] = time.Since(begin)
	}
	slices.Sort(took)
	return took, nil
}

// longer counts what took more than limit.
func longer(took []time.Duration, limit time.Duration) (n int) {
	for _, d := range took {
		if d > limit {
			n++
		}
	}
	return n
}

func round(c *client) error {
	for i := range 2 {
		if _, err := c.Write([]byte{byte(i)}); err != nil {
			return err
		}
	}
	_, err := io.ReadFull(c.in, make([]byte, 2))
	return err
}

// urgentData: its mark may be lost, the bytes around it may not. How it arrives
// is a matter of timing, so it is tried several times.
func urgentData(ctx context.Context, s *stand) (v verdict, err error) {
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	for range 8 {
		if v, err = s.urgentOnce(ctx); err != nil || !v.ok {
			break
		}
	}
	return v, err
}

func (s *stand) urgentOnce(ctx context.Context) (verdict, error) {
	c, err := s.opened(ctx)
	if err != nil {
		return verdict{}, err
	}
	defer c.Close()
	if answer, err := c.ask("urgent"); err != nil || answer != "ready" {
		return verdict{}, fmt.Errorf("ask for urgent data: %q, %w", answer, err)
	}
	if err := sendUrgent(c.TCPConn); err != nil {
		return verdict{}, err
	}
	c.bound(3 * time.Second)
	answer, err := c.hear()
	switch {
	case err != nil && told(err) == "nothing":
		return bad("what follows is stuck"), nil
	case err != nil:
		return bad("%s", told(err)), nil
	case answer == `stream "before after" beside "!"`:
		return okay("passes as urgent"), nil
	case answer == `stream "before! after" beside ""`:
		return okay("byte kept, mark lost"), nil
	case answer == `stream "before after" beside ""`:
		return okay("byte dropped, order kept"), nil
	}
	return bad("%s", answer), nil
}

func sendUrgent(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(c, "before"); err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) }); err != nil {
		return err
	}
	if sent != nil {
		return fmt.Errorf("send an urgent byte: %w", sent)
	}
	_, err = io.WriteString(c, " after\n")
	return err
}

// forgedHeader: what a client says about itself is data like any other.
func forgedHeader(ctx context.Context, s *stand) (verdict, error) {
	if err := s.up(ctx, "raw"); err != nil {
		return verdict{}, err
	}
	c, err := s.dial(ctx)
	if err != nil {
		return verdict{}, err
	}
	defer c.Close()
	const forged = "PROXY TCP4 8.8.8.8 9.9.9.9 1 2\r\nhello\n"
	if answer, err := c.ask(strings.TrimSuffix(forged, "\n")); err != nil {
		return bad("%q, %s", answer, told(err)), nil
	}
	if got := s.note(ctx, "raw", time.Second); got != strconv.Quote(forged) {
		return bad("server got %s", got), nil
	}
	return okay("passes as data"), nil
}

// source: can the server learn who its client is?
func source(ctx context.Context, s *stand) (verdict, error) {
	s.route.tellSource = true
	if err := s.up(ctx, "raw"); errors.Is(err, errNoSuchOption) {
		return bad("lost, no option"), nil
	} else if err != nil {
		return verdict{}, err
	}
	c, err := dialFrom(ctx, "127.0.0.9", s.route.bind)
	if err != nil {
		return verdict{}, err
	}
	defer c.Close()
	if answer, err := c.ask("hello"); err != nil {
		return bad("%q, %s", answer, told(err)), nil
	}
	got := s.note(ctx, "raw", time.Second)
	if !strings.HasPrefix(got, `"PROXY TCP4 127.0.0.9 `) || !strings.HasSuffix(got, `\r\nhello\n"`) {
		return bad("server got %s", got), nil
	}
	return okay("PROXY header"), nil
}

// bothVersions: IPv4 and IPv6 clients, an IPv6 server.
func bothVersions(ctx context.Context, s *stand) (verdict, error) {
	s.route.bind = net.JoinHostPort("::", s.route.bindPort())
	s.route.dest = net.JoinHostPort("::1", portOf(s.route.dest))
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		c, err := dialFrom(ctx, "", net.JoinHostPort(host, s.route.bindPort()))
		if err != nil {
			return bad("%s: %s", host, told(err)), nil
		}
		_, err = c.ask("hello")
		c.Close()
		if err != nil {
			return bad("%s: %s", host, told(err)), nil
		}
	}
	return okay("both served"), nil
}
