package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
)

// tokenLeast is the length below which a token could be guessed.
const tokenLeast = 16

// caller is who is at the other end of a connection.
type caller struct {
	local    bool // came through a unix socket
	stranger bool // as a user that may not
	loopback bool // came to an address that only this machine reaches
}

// callerKey is where a connection's context has its caller.
type callerKey struct{}

// withCaller finds out who is at the other end. It is net/http's ConnContext.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	var who caller
	if p, ok := c.(*placed); ok {
		c = p.Conn
	}
	switch at := c.LocalAddr().(type) {
	case *net.UnixAddr:
		who.local = true
		u, ok := c.(*net.UnixConn)
		who.stranger = !ok || !mayAsk(u)
	case *net.TCPAddr:
		who.loopback = at.IP.IsLoopback()
	}
	return context.WithValue(ctx, callerKey{}, who)
}

// mayAsk reports whether the process that made the connection is root's or
// tiproxy's own user's. The socket's mode has let nobody else in; a descriptor
// that was handed over, or a changed mode, does not get further than this.
func mayAsk(c *net.UnixConn) bool {
	uid, err := peerUID(c)
	if errors.Is(err, errors.ErrUnsupported) {
		return true
	}
	return err == nil && trusted(uid, os.Geteuid())
}

func trusted(uid, own int) bool { return uid == 0 || uid == own }

// guarded lets only those through who may ask, and only pages of our own.
func (s *Server) guarded(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(denyCrossOrigin))
	next = protection.Handler(http.MaxBytesHandler(next, bodyBytes))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		if p := s.refusal(r); p != nil {
			if p.Status == http.StatusUnauthorized {
				header.Set("WWW-Authenticate", `Bearer realm="tiproxy"`)
			}
			writeProblem(w, p)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// shows reports whether r is for the page that browsers are shown: to those
// without a token, too, so that they can show one.
func (s *Server) shows(r *http.Request) bool {
	who, _ := r.Context().Value(callerKey{}).(caller)
	return s.cfg.Page != nil && !who.local && s.cfg.Page.Serves(r.URL.Path)
}

// refusal says why r is not answered, nil if it is.
func (s *Server) refusal(r *http.Request) *Problem {
	who, _ := r.Context().Value(callerKey{}).(caller)
	switch {
	case who.stranger:
		return &Problem{Status: http.StatusForbidden, Text: "only root and the user that tiproxy runs as may ask"}
	case who.local:
		return nil
	case who.loopback && !ownHost(r.Host):
		// A page that has made its own name lead here: DNS rebinding.
		return &Problem{Status: http.StatusMisdirectedRequest, Text: fmt.Sprintf("%q is not what this machine is called from here", r.Host), Hint: "write 127.0.0.1, [::1] or localhost"}
	case s.shows(r), s.cfg.Page != nil && s.cfg.Page.Admits(r):
		return nil
	case !s.knows(r.Header.Get("Authorization")):
		return &Problem{Status: http.StatusUnauthorized, Text: "the token is missing or wrong", Hint: "send Authorization: Bearer and what is in the file that --admin-token-file names"}
	}
	return nil
}

// knows reports whether a header Authorization has the token. How long that
// takes does not depend on how much of it is right.
func (s *Server) knows(header string) bool {
	scheme, given, _ := strings.Cut(header, " ")
	a, b := sha256.Sum256([]byte(strings.TrimSpace(given))), sha256.Sum256([]byte(s.cfg.Token))
	same := subtle.ConstantTimeCompare(a[:], b[:]) == 1
	return same && s.cfg.Token != "" && strings.EqualFold(scheme, "Bearer")
}

// ownHost reports whether a header Host is how a program of this machine calls
// it: an address or localhost.
func ownHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if zone := strings.IndexByte(host, '%'); zone >= 0 {
		host = host[:zone]
	}
	name := strings.ToLower(host)
	return name == "localhost" || strings.HasSuffix(name, ".localhost") || net.ParseIP(host) != nil
}

// denyCrossOrigin answers a browser that acts for somebody else's page.
func denyCrossOrigin(w http.ResponseWriter, _ *http.Request) {
	writeProblem(w, &Problem{Status: http.StatusForbidden, Text: "this was asked for by a page of another origin"})
}

// CheckToken says what is wrong with a token: it can be guessed, or cannot be
// written in a header. The error does not contain it.
func CheckToken(token string) error {
	for _, r := range token {
		if r <= ' ' || r > '~' {
			return errors.New("has a blank or another character that does not go into a header: write letters and digits in one line, for example what openssl rand -hex 32 prints")
		}
	}
	if len(token) < tokenLeast {
		return fmt.Errorf("has %d characters, and fewer than %d can be guessed: write for example what openssl rand -hex 32 prints", len(token), tokenLeast)
	}
	return nil
}
