// Package admin is the small room in which tiproxy can be asked about itself:
// HTTP on a unix socket that only tiproxy's own user may use. It answers two
// questions: GET /healthz, is the proxy well, and GET /metrics, what has it counted?
//
// What is always true: asking changes nothing. The room holds no lease and
// knows no pool, so a question neither starts a child nor keeps one awake.
// Every exchange is bounded in time and size. The socket never has a mode that
// lets others in, not even for the moment in which it is made.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	// exchangeTime is the longest that one question may take, from its first
	// byte to the last of the answer.
	exchangeTime = 5 * time.Second
	// idleTime is how long a connection without a question is kept.
	idleTime = 30 * time.Second
	// headerBytes is more than any client of ours sends.
	headerBytes = 8 << 10
	// healthPath is what is asked for.
	healthPath = "/healthz"
	// metricsPath is where Prometheus looks.
	metricsPath = "/metrics"
)

// Server answers questions on one listener.
type Server struct {
	http   *http.Server
	health func() error
	log    *slog.Logger
	ended  chan struct{} // closed when serve has ended
}

// Serve begins to answer on l, which it owns from then on, until Close. health
// tells what is wrong with the proxy, nil if nothing is; it is called for every
// question, from several goroutines at once, and must not block. metrics answers
// what was counted.
func Serve(l net.Listener, health func() error, metrics http.Handler, logger *slog.Logger) *Server {
	s := &Server{health: health, log: logger, ended: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+healthPath, s.answerHealth)
	mux.Handle("GET "+metricsPath, metrics)
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: exchangeTime,
		ReadTimeout:       exchangeTime,
		WriteTimeout:      exchangeTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    headerBytes,
		ErrorLog:          log.New(errorLog{logger}, "", 0),
	}
	go s.serve(l)
	return s
}

// serve ends when Close closes the listener, or when that fails by itself:
// then the proxy goes on, as clients come first.
func (s *Server) serve(l net.Listener) {
	defer close(s.ended)
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		s.log.Error("the admin socket answers no more", "err", err)
	}
}

// Close ends the listener and every connection, answers that are under way
// included. No question is taken when it returns. It does not remove the
// socket's file.
func (s *Server) Close() {
	// What it could return is that closing failed: nothing is left to try.
	_ = s.http.Close()
	<-s.ended
}

// answerHealth says 200 and "ok", or 503 and what is wrong.
func (s *Server) answerHealth(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if err := s.health(); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, err)
		return
	}
	fmt.Fprintln(w, "ok")
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
