//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stand is where one cell is tried: one peer, a server behind it, and clients.
type stand struct {
	peer  peer
	route route
	notes string   // what the servers wrote down
	extra []string // further words for the server
	wrap  []string // a command that runs the peer

	proxy  *program
	server *program // nil for a peer that starts it
}

// newStand prepares a place with ports that no other cell uses. They lie below
// the range from which the kernel takes local ports.
func newStand(p peer, dir string, number int) (*stand, error) {
	dir = filepath.Join(dir, strconv.Itoa(number))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	s := &stand{peer: p, notes: filepath.Join(dir, "notes")}
	s.route = route{
		bind: fmt.Sprintf("127.0.0.1:%d", 10000+number), dest: fmt.Sprintf("127.0.0.1:%d", 20000+number), dir: dir,
	}
	return s, nil
}

// up starts the peer, and the server if the peer does not, and waits until the
// peer listens. words are further ones for the server.
func (s *stand) up(ctx context.Context, words ...string) error {
	s.extra = words
	if err := s.startServer(ctx); err != nil {
		return err
	}
	return s.startProxy(ctx)
}

func (s *stand) serverLine() ([]string, error) {
	self, err := os.Executable()
	return append([]string{self, "role", "server", s.route.dest, s.notes}, s.extra...), err
}

// startServer does nothing for a peer that starts it by itself.
func (s *stand) startServer(ctx context.Context) error {
	line, err := s.serverLine()
	if err != nil {
		return err
	}
	if s.peer.traits().starts {
		if s.route.server == nil {
			s.route.server = line
		}
		return nil
	}
	s.server, err = spawn(line...)
	if err != nil {
		return err
	}
	return poll(ctx, 5*time.Second, func() error { return s.listens(s.route.dest, s.server) })
}

func (s *stand) startProxy(ctx context.Context) error {
	line, err := s.peer.command(s.route)
	if err != nil {
		return err
	}
	s.proxy, err = spawn(append(slices.Clone(s.wrap), line...)...)
	if err != nil {
		return err
	}
	return poll(ctx, 5*time.Second, func() error { return s.listens(s.route.bind, s.proxy) })
}

// listens looks for a listening socket in the kernel's tables: a connection
// would already be part of what is observed.
func (s *stand) listens(address string, by *program) error {
	if listening(portOf(address)) {
		return nil
	}
	if by.ended() {
		return fmt.Errorf("%v ended: %s", by.cmd.Args, by.out.tail())
	}
	return fmt.Errorf("%v does not listen: %s", by.cmd.Args, by.out.tail())
}

// listening says whether somebody listens on a TCP port. See proc(5) for
// /proc/net/tcp: the local address is the second field, and state 0A is LISTEN.
func listening(port string) bool {
	number, _ := strconv.Atoi(port)
	suffix := ":" + strings.ToUpper(hex.EncodeToString([]byte{byte(number >> 8), byte(number)}))
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		data, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) > 3 && strings.HasSuffix(f[1], suffix) && f[3] == "0A" {
				return true
			}
		}
	}
	return false
}

// processes are the peer's own, orphans too, without the server behind it.
func (s *stand) processes() []processLine {
	reapOrphans()
	return slices.DeleteFunc(everybodyElse(), func(p processLine) bool { return p.state == 'Z' || p.isServer() })
}

// servers are those that run behind the peer, whoever started them.
func (s *stand) servers() []processLine {
	reapOrphans()
	return slices.DeleteFunc(everybodyElse(), func(p processLine) bool { return p.state == 'Z' || !p.isServer() })
}

func (s *stand) cost() cost { return costOf(s.processes()) }

// noted are the notes that begin with word, without it.
func (s *stand) noted(word string) []string {
	data, err := os.ReadFile(s.notes)
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), word+" "); ok {
			found = append(found, rest)
		}
	}
	return found
}

// note waits for the first note that begins with word; "" when none comes.
func (s *stand) note(ctx context.Context, word string, limit time.Duration) string {
	_ = poll(ctx, limit, func() error {
		if len(s.noted(word)) == 0 {
			return errors.New("no note yet")
		}
		return nil
	})
	if found := s.noted(word); len(found) > 0 {
		return found[0]
	}
	return ""
}

// client is one that came through the peer. Everything that it does ends with
// the cell's time.
type client struct {
	*net.TCPConn
	in *bufio.Reader // all that is read must come from here
}

func (s *stand) dial(ctx context.Context) (*client, error) { return dialFrom(ctx, "", s.route.bind) }

// dialFrom connects from an address of the loopback network, or from any.
func dialFrom(ctx context.Context, source, address string) (*client, error) {
	var d net.Dialer
	if source != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
	}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if end, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(end); err != nil {
			c.Close()
			return nil, err
		}
	}
	return &client{c.(*net.TCPConn), bufio.NewReader(c)}, nil
}

// bound ends what the client does after d. That it cannot be set on a
// connection that is gone, the next read will tell.
func (c *client) bound(d time.Duration) { _ = c.SetDeadline(time.Now().Add(d)) }

// say sends one line.
func (c *client) say(format string, args ...any) error {
	_, err := fmt.Fprintf(c, format+"\n", args...)
	return err
}

// hear reads one line.
func (c *client) hear() (string, error) {
	line, err := c.in.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

func (c *client) ask(line string) (string, error) {
	if err := c.say("%s", line); err != nil {
		return "", err
	}
	return c.hear()
}

// opened is a client that has had an answer, so that the whole way is open. It
// is for rows that need one to begin with: not to get it breaks the row.
func (s *stand) opened(ctx context.Context) (*client, error) {
	c, err := s.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s takes no connection: %w", s.peer.name(), err)
	}
	if _, err := c.ask("hello"); err != nil {
		c.Close()
		return nil, fmt.Errorf("%s does not carry a line and its answer: %w; it says: %s", s.peer.name(), err, s.proxy.out.tail())
	}
	return c, nil
}

// asking is an opened client that has also asked for an action.
func (s *stand) asking(ctx context.Context, action string) (*client, error) {
	c, err := s.opened(ctx)
	if err != nil {
		return nil, err
	}
	return c, c.say("%s", action)
}

// crowd is a number of opened clients.
func (s *stand) crowd(ctx context.Context, n int) ([]*client, error) {
	var all []*client
	for range n {
		c, err := s.opened(ctx)
		if err != nil {
			disperse(all)
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func disperse(all []*client) {
	for _, c := range all {
		c.Close()
	}
}

// served asks once and says how long the answer took.
func (s *stand) served(ctx context.Context, limit time.Duration) (time.Duration, string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin := time.Now()
	c, err := s.dial(ctx)
	if err != nil {
		return time.Since(begin), "", err
	}
	defer c.Close()
	answer, err := c.ask("hello")
	return time.Since(begin), answer, err
}

// readAll reads to the end and says how much it was.
func (c *client) readAll() (int64, error) { return io.Copy(io.Discard, c.in) }
