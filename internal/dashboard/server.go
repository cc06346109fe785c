package dashboard

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	// headTime bounds how long the beginning of a question may take.
	headTime = 5 * time.Second
	// idleTime is how long a connection without a question is kept.
	idleTime = 2 * time.Minute
	// headBytes and bodyBytes are more than a browser sends here.
	headBytes = 16 << 10
	bodyBytes = 4 << 10
)

// Serve shows the page on l, which it owns, until ctx is done: then the error is
// nil. Calls of those who were let in are passed on to api. Only who calls this
// machine by an address of its own or as localhost is answered.
func Serve(ctx context.Context, l net.Listener, d *Door, api http.Handler) error {
	server := &http.Server{
		Handler:           handler(d, api),
		ReadHeaderTimeout: headTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    headBytes,
		ErrorLog:          log.New(io.Discard, "", 0), // what single connections do is nobody's news
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	// Streams do not end by themselves. What closing returns changes nothing.
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// handler is the page and what is behind it, with all that keeps others out.
func handler(d *Door, api http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusForbidden, "this was asked for by a page of another origin", "use the page that tiproxy dashboard shows")
	}))
	inner := protection.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case d.Serves(r.URL.Path):
			d.ServeHTTP(w, r)
		case !d.inside(r):
			refuse(w, http.StatusUnauthorized, "you were not let in", "run tiproxy dashboard again, and open the address that it prints")
		case !d.Admits(r):
			refuse(w, http.StatusNotFound, "this is nothing that the page asks for", "use the API itself: docs/api.md")
		default:
			api.ServeHTTP(w, r)
		}
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w.Header())
		if !ownHost(r.Host) {
			// A page that has made its own name lead here: DNS rebinding.
			say(w, http.StatusMisdirectedRequest, "Call this machine 127.0.0.1, [::1] or localhost.")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, bodyBytes)
		inner.ServeHTTP(w, r)
	})
}

// ownHost reports whether a header Host names this machine, whatever the port:
// there may be a tunnel in front.
func ownHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
