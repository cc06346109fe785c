package config

import (
	"strings"
	"testing"
)

// What somebody in between has to see, say or count keeps clients off the
// direct path: auto then takes the other one, direct is a mistake.
func TestCheck_DirectPath(t *testing.T) {
	for _, tt := range []struct {
		obstacle string
		set      func(*Text)
	}{
		{"--bind is a unix socket", func(t *Text) { t.Bind = given("bind", "unix:/run/x.sock") }},
		{"--dest is a unix socket", func(t *Text) { t.Dest = given("dest", "unix:/run/x.sock") }},
		{"--ready does without", func(t *Text) { t.Ready = []Value{given("ready", "dial")} }},
		{"or with a dial", func(t *Text) { t.Ready = []Value{given("ready", "listen"), given("ready", "dial")} }},
		{"--proxy-protocol writes", func(t *Text) { t.ProxyProtocol = given("proxy-protocol", "v1") }},
		{"--accept-proxy-protocol reads", func(t *Text) { t.AcceptProxyProtocol = []Value{given("accept-proxy-protocol", "::1")} }},
		{"--wake-on data reads", func(t *Text) { t.WakeOn = given("wake-on", "data") }},
		{"--quiet-policy ignore", func(t *Text) { t.Quiet, t.QuietPolicy = given("quiet", "1m"), given("quiet-policy", "ignore") }},
		{"--quiet-policy close", func(t *Text) { t.Quiet, t.QuietPolicy = given("quiet", "1m"), given("quiet-policy", "close") }},
		{"--allow looks", func(t *Text) { t.Allow = []Value{given("allow", "::1")} }},
		{"--deny looks", func(t *Text) { t.Deny = []Value{given("deny", "::1")} }},
		{"--max-connections counts", func(t *Text) { t.MaxConnections = given("max-connections", "3") }},
		{"--max-waiting counts", func(t *Text) { t.MaxWaiting = given("max-waiting", "3") }},
		{"--max-per-source counts", func(t *Text) { t.MaxPerSource = given("max-per-source", "3") }},
		{"", func(t *Text) { t.MinUptime, t.WakeRate = given("min-uptime", "3s"), given("wake-rate", "3/1m") }},
		{"", func(t *Text) { t.Quiet, t.Bind = given("quiet", "1m"), given("bind", ":4000") }},
		{"", func(t *Text) { t.Ready = []Value{given("ready", "http://127.0.0.1:3000/ok"), given("ready", "listen")} }},
	} {
		in := text(t)
		in.Ready = []Value{given("ready", "listen")}
		tt.set(&in)
		in.BytePath = given("path", "auto")
		s, err := Check(in)
		if err != nil || s.BytePath != PathAuto || !strings.Contains(s.NotDirect, tt.obstacle) || (tt.obstacle == "") != (s.NotDirect == "") {
			t.Errorf("auto: %v, path %q, obstacle %q, want %q", err, s.BytePath, s.NotDirect, tt.obstacle)
		}
		in.BytePath = given("path", "direct")
		if tt.obstacle != "" {
			wantError(t, in, "--path is direct, but "+s.NotDirect)
		} else if _, err := Check(in); err != nil {
			t.Errorf("direct: %v", err)
		}
	}
}
