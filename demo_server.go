package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// demoServerName is the hidden command under which this binary is the demo's
// child.
const demoServerName = "demo-server"

func demoServerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    demoServerName + " ADDR",
		Short:  "The server of tiproxy demo",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, words []string) error {
			return serveDemo(words[0])
		},
	}
}

// serveDemo is a web server as the demo needs one: it takes its time to start,
// and ends with status 0 when it is told to.
func serveDemo(addr string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	warm := time.NewTimer(demoWarmUp)
	defer warm.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-warm.C:
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: &demoPage{since: time.Now()}, ReadHeaderTimeout: 10 * time.Second}
	// A browser would keep its connection, and the server would never be idle.
	server.SetKeepAlivesEnabled(false)
	unhook := context.AfterFunc(ctx, func() { server.Close() })
	defer unhook()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// demoPage answers every request.
type demoPage struct {
	since    time.Time
	requests atomic.Int64
}

// ServeHTTP tells who answers, so that a restart can be seen.
func (p *demoPage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if r.URL.Path == "/favicon.ico" {
		http.NotFound(w, r)
		return
	}
	n := p.requests.Add(1)
	fmt.Fprintf(w, "Hello from process %d, ready for %v. You are client %d of its life.\n", os.Getpid(), readable(time.Since(p.since)), n)
	if n == 1 {
		fmt.Fprintln(w, "It did not run until you came, or until whoever came just before you.")
	}
}
