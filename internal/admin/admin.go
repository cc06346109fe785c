// Package admin is the room in which tiproxy is asked about itself and steered:
// HTTP and JSON, as docs/openapi.yaml describes it, on a unix socket for
// tiproxy's own user and root, and on TCP with a token.
//
// What is always true: asking changes nothing; it neither starts a child nor
// keeps one awake. What is changed is changed by POST, by whoever the room was
// handed; nothing that can be said here decides what is executed. Everything is
// bounded: questions in time and size, connections and streams in number,
// streams in how far their reader may be behind. Nobody who asks can hold up
// the proxy, or anybody else who asks. The socket never has a mode that lets
// others in, not even for the moment in which it is made; no token is logged.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// exchangeTime is the longest that one question may take, from its first
	// byte to the last of the answer. Streams and orders take longer.
	exchangeTime = 5 * time.Second
	// idleTime is how long a connection without a question is kept.
	idleTime = 30 * time.Second
	// headerBytes and bodyBytes are more than any client of ours sends.
	headerBytes = 8 << 10
	bodyBytes   = 4 << 10
	// connectionsMost is how many connections there may be on one listener; more
	// wait in the kernel's backlog.
	connectionsMost = 128
	// streamsMost is how many of them may be streams.
	streamsMost = 64
	// farewellTime is how long streams may take to tell what has happened when
	// the server is closed.
	farewellTime = 200 * time.Millisecond
)

// ErrNoToken is what Serve returns for a listener that others than tiproxy's
// own user can reach, if there is no token.
var ErrNoToken = errors.New("anybody who can reach it could stop and start services: it needs a token")

// Services are who is asked about, and steered. Its methods are called from
// several goroutines at once; all but Do must not block. What it is called for
// an unknown name, it answers with an error that wraps ErrUnknown.
type Services interface {
	// Services returns copies, in the order of the names.
	Services() []Service
	// Connections returns up to limit connections, the oldest first, and how
	// many there are.
	Connections(name string, limit int) (list []Connection, total int, err error)
	// Do carries an order out and returns when it is done, or ctx is. An order
	// that was begun is not undone when ctx ends.
	Do(ctx context.Context, name string, o Order) error
	// Output returns what the child printed and prints.
	Output(name string) (Output, error)
}

// ErrUnknown is the cause when there is no service of that name.
var ErrUnknown = errors.New("there is no such service")

// Program is tiproxy itself. Its methods are called from several goroutines at
// once; all but Reload must not block.
type Program interface {
	// Health says what is wrong with tiproxy, nil if nothing is.
	Health() error
	// Ready says why not all services take clients, nil if they do.
	Ready() error
	// Groups returns copies, in the order of the names.
	Groups() []Group
	// Reload reads the configuration again. A *Problem says which status is
	// answered for an error.
	Reload(ctx context.Context) (Reloaded, error)
}

// Verb is what is to be done with a service.
type Verb string

// The verbs.
const (
	Start   Verb = "start"   // and wait until the child is ready
	Stop    Verb = "stop"    // drain, stop, and wait until it is gone; ends a hold
	Hold    Verb = "hold"    // awake until For is over, and wait until it is ready
	Release Verb = "release" // end a hold
)

// Order is one thing to be done with a service.
type Order struct {
	Verb Verb
	For  time.Duration // of a Hold
}

// Output is what a child printed and prints.
type Output interface {
	// Follow returns the remembered lines behind number after, and a follower
	// of all later ones, without a gap or a repetition between the two.
	Follow(after uint64) ([]Line, Follower)
}

// Follower reads what a child prints.
type Follower interface {
	// Next returns the next lines, at least one, as soon as there is one. The
	// error is ErrBehind, io.EOF if there will be none, or ctx's: then no line
	// is lost.
	Next(ctx context.Context) ([]Line, error)
	// Close ends it. Whoever calls Follow must call it.
	Close()
}

// ErrBehind is what a follower gets that was too slow.
var ErrBehind = errors.New("what was printed was not read in time")

// Page is what browsers are shown on TCP. Everybody who reaches the server sees
// it; it lets people in who know the token.
type Page interface {
	http.Handler
	// Serves reports whether the page has an answer for a path.
	Serves(path string) bool
	// Admits reports whether somebody who was let in asks for what the page
	// needs: then the token is not asked for.
	Admits(r *http.Request) bool
}

// Config is what a Server answers with.
type Config struct {
	Services Services
	Program  Program
	Journal  *Journal
	Version  Version
	Metrics  http.Handler // answers GET /metrics; nil = 404
	Token    string       // asked for on TCP; "" = no TCP
	Page     Page         // for browsers, on TCP; nil = none
	Log      *slog.Logger
}

// Server answers questions on its listeners.
type Server struct {
	cfg     Config
	http    *http.Server
	ctx     context.Context // done at Close
	cancel  context.CancelFunc
	streams chan struct{}  // holds one for every stream
	running sync.WaitGroup // listeners, and who is being answered
	telling sync.WaitGroup // streams among them

	mu     sync.Mutex
	closed bool
}

// New returns a server without listeners.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, streams: make(chan struct{}, streamsMost)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.http = &http.Server{
		Handler:           s.counted(s.guarded(s.routes())),
		ReadHeaderTimeout: exchangeTime,
		ReadTimeout:       exchangeTime,
		WriteTimeout:      exchangeTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    headerBytes,
		ErrorLog:          log.New(errorLog{cfg.Log}, "", 0),
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
		ConnContext:       withCaller,
	}
	return s
}

// Serve begins to answer on l, which it owns from then on, until Close. On a
// unix socket root and tiproxy's own user are answered, elsewhere whoever has
// the token: without one the error is ErrNoToken, and l is closed.
func (s *Server) Serve(l net.Listener) error {
	if l.Addr().Network() != "unix" && s.cfg.Token == "" {
		l.Close()
		return ErrNoToken
	}
	if !s.enter(&s.running) {
		l.Close()
		return http.ErrServerClosed
	}
	go s.serve(newLimited(l, connectionsMost))
	return nil
}

// serve ends when Close closes the listener, or when that fails by itself:
// then the proxy goes on, as clients come first.
func (s *Server) serve(l net.Listener) {
	defer s.running.Done()
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		s.cfg.Log.Error("the admin socket answers no more", "at", l.Addr().String(), "err", err)
	}
}

// Close ends the listeners and every connection, answers and streams that are
// under way included. Streams tell what has happened so far, if that is taken at
// once. Nobody is being answered when it returns. It does not remove a socket's
// file.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	told := make(chan struct{})
	go s.awaitTold(told)
	select {
	case <-told:
	case <-time.After(farewellTime):
	}
	// What it could return is that closing failed: nothing is left to try.
	_ = s.http.Close()
	s.running.Wait()
	<-told
}

// awaitTold ends when all streams have.
func (s *Server) awaitTold(told chan<- struct{}) {
	defer close(told)
	s.telling.Wait()
}

// enter counts one more in a group that Close waits for, unless it was called.
func (s *Server) enter(group *sync.WaitGroup) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	group.Add(1)
	return true
}

// counted makes Close wait for those who are being answered.
func (s *Server) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.enter(&s.running) {
			return
		}
		defer s.running.Done()
		next.ServeHTTP(w, r)
	})
}

// errorLog takes what net/http has to say about single connections.
type errorLog struct{ log *slog.Logger }

// Write makes one line of the log of what net/http wrote.
func (e errorLog) Write(line []byte) (int, error) {
	e.log.Debug("admin", "err", string(line))
	return len(line), nil
}

// Listen listens on a unix socket at path with mode 0600. Nothing may be there
// yet. The error is that of socket(2), bind(2) or listen(2).
func Listen(ctx context.Context, path string) (*net.UnixListener, error) {
	l, err := listenOwnerOnly(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	own := l.(*net.UnixListener)
	// Go would remove whatever has that name by then.
	own.SetUnlinkOnClose(false)
	return own, nil
}
