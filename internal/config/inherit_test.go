package config

import (
	"strings"
	"testing"
)

// What the child is handed it does not listen on anywhere else, and nobody looks
// at its clients.
func TestInheritGoesWithoutDest(t *testing.T) {
	base := func() Text {
		text := text(t)
		text.Dest = Value{From: "--dest"}
		text.BytePath = Value{From: "--path", Text: "inherit", Given: true}
		return text
	}
	s, err := Check(base())
	if err != nil || s.BytePath != PathInherit || s.Dest != (Addr{}) {
		t.Fatalf("dest %v, path %v, %v", s.Dest, s.BytePath, err)
	}
	for name, wrong := range map[string]func(*Text){
		"--dest is 127.0.0.1:3000, but with --path inherit": func(t *Text) { t.Dest.Text, t.Dest.Given = "127.0.0.1:3000", true },
		"--bind is a unix socket":                           func(t *Text) { t.Bind.Text, t.Bind.Given = "unix:/tmp/s", true },
		"--wake-rate goes by the client's address":          func(t *Text) { t.WakeRate = Value{From: "--wake-rate", Text: "5/1m", Given: true} },
		"--allow looks at every client":                     func(t *Text) { t.Allow = []Value{{From: "--allow", Text: "10.0.0.0/8", Given: true}} },
		"--ready does without":                              func(t *Text) { t.Ready = []Value{{From: "--ready", Text: "dial", Given: true}} },
	} {
		text := base()
		wrong(&text)
		if _, err := Check(text); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want %q, got %v", name, err)
		}
	}
}
