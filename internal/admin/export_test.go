package admin

import (
	"net/http"
	"net/url"
	"time"
)

// The bounds, for tests of what is at them.
const (
	EventsMost      = eventsMost
	EventsBehind    = eventsBehind
	StreamsMost     = streamsMost
	ConnectionsMost = connectionsMost
)

// Patterns lists everything that can be asked for.
func (s *Server) Patterns() []string {
	var all []string
	for _, r := range s.table() {
		all = append(all, r.pattern)
	}
	return all
}

// Handler answers as a listener of that network does.
func (s *Server) Handler() http.Handler { return s.http.Handler }

// HoldTime reads ?for=.
func HoldTime(query url.Values) (time.Duration, *Problem) { return holdTime(query) }

// OwnHost reports whether a header Host is how this machine calls itself.
var OwnHost = ownHost

// Trusted reports whether a user may ask.
var Trusted = trusted
