package admin_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"tiproxy/internal/admin"
)

// bound is how long a test waits for something that is sure to come.
const bound = 30 * time.Second

// token is what the tests ask with on TCP.
const token = "0123456789abcdef-a-token"

// world is a tiproxy made of nothing.
type world struct {
	journal *admin.Journal
	output  *tape

	mu       sync.Mutex
	services []admin.Service
	groups   []admin.Group
	sick     error // what Health says
	unready  error
	orders   []string
	do       func(context.Context, string, admin.Order) error
	reload   func(context.Context) (admin.Reloaded, error)
}

func newWorld(names ...string) *world {
	w := &world{journal: admin.NewJournal(), output: &tape{}}
	for _, name := range names {
		w.services = append(w.services, admin.Service{
			Name: name, State: admin.StateClosed, Since: time.Now(), Bind: "127.0.0.1:4000", Dest: "127.0.0.1:3000",
			Program: "mariadbd", Path: "copy", CountingSince: time.Now(),
		})
	}
	return w
}

// change changes what the world says.
func (w *world) change(f func(*world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

func (w *world) Services() []admin.Service {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.services)
}

func (w *world) known(name string) error {
	for _, s := range w.Services() {
		if s.Name == name {
			return nil
		}
	}
	return admin.ErrUnknown
}

func (w *world) Connections(name string, limit int) ([]admin.Connection, int, error) {
	all := []admin.Connection{{Peer: "192.0.2.1:1", Since: time.Now(), BytesUp: 1}, {Peer: "192.0.2.2:2", Since: time.Now(), Waiting: true}}
	return all[:min(limit, len(all))], 70, w.known(name)
}

func (w *world) Do(ctx context.Context, name string, o admin.Order) error {
	if err := w.known(name); err != nil {
		return err
	}
	w.mu.Lock()
	order := string(o.Verb) + " " + name
	if o.For != 0 {
		order += " " + o.For.String()
	}
	w.orders = append(w.orders, order)
	do := w.do
	w.mu.Unlock()
	if do != nil {
		return do(ctx, name, o)
	}
	return nil
}

func (w *world) Output(name string) (admin.Output, error) { return w.output, w.known(name) }

func (w *world) Health() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sick
}

func (w *world) Ready() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.sick, w.unready)
}

func (w *world) Groups() []admin.Group {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.groups)
}

func (w *world) Reload(ctx context.Context) (admin.Reloaded, error) {
	w.mu.Lock()
	reload := w.reload
	w.mu.Unlock()
	if reload == nil {
		return admin.Reloaded{Added: []string{"new"}}, nil
	}
	return reload(ctx)
}

// tape is output that a test speaks.
type tape struct {
	mu        sync.Mutex
	past      []admin.Line
	followers []*listener
}

type listener struct {
	c      chan admin.Line
	behind bool
}

func (t *tape) say(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := admin.Line{Seq: uint64(len(t.past)) + 1, Time: time.Now(), Stream: "stdout", Line: text}
	t.past = append(t.past, l)
	for _, f := range t.followers {
		f.c <- l
	}
}

// finish ends all who follow.
func (t *tape) finish(behind bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.followers {
		f.behind = behind
		close(f.c)
	}
	t.followers = nil
}

func (t *tape) Follow(after uint64) ([]admin.Line, admin.Follower) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := &listener{c: make(chan admin.Line, 1000)}
	t.followers = append(t.followers, f)
	return slices.Clone(t.past[min(after, uint64(len(t.past))):]), f
}

func (f *listener) Next(ctx context.Context) ([]admin.Line, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case l, ok := <-f.c:
		switch {
		case ok:
			return []admin.Line{l}, nil
		case f.behind:
			return nil, admin.ErrBehind
		}
		return nil, io.EOF
	}
}

func (f *listener) Close() {}

// server answers for a world, without a listener.
func (w *world) server(t testing.TB) *admin.Server {
	t.Helper()
	s := admin.New(admin.Config{
		Services: w, Program: w, Journal: w.journal, Token: token, Log: slog.New(slog.DiscardHandler),
		Version: admin.Version{Version: "1", Commit: "c", Go: "go1", OS: "linux", Arch: "amd64", PID: 1, Started: time.Now()},
	})
	t.Cleanup(s.Close)
	return s
}

// onSocket has a world answer on a unix socket.
func (w *world) onSocket(t testing.TB) (at admin.Target, s *admin.Server) {
	t.Helper()
	s = w.server(t)
	path := socketPath(t)
	l, err := admin.Listen(context.Background(), path)
	must(t, err)
	must(t, s.Serve(l))
	return admin.Target{Network: "unix", Address: path}, s
}

// onTCP has a world answer on a port.
func (w *world) onTCP(t testing.TB) (at admin.Target, s *admin.Server) {
	t.Helper()
	s = w.server(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, s.Serve(l))
	return admin.Target{Network: "tcp", Address: l.Addr().String(), Token: token}, s
}

// socketPath has a name short enough for sockets.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "adm-") //nolint:usetesting // the name of t.TempDir is too long for sockets
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func client(t testing.TB, at admin.Target) *admin.Client {
	t.Helper()
	c := admin.NewClient(at)
	t.Cleanup(c.Close)
	return c
}

// briefly is a context for something that is sure to come.
func briefly(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type ctx = context.Context
