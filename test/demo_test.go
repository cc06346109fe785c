//go:build linux

package e2e

import (
	"strings"
	"testing"
)

// The demo is for eyes, so its words are tested loosely: that a person sees
// the address, the start, the service and the stop, in that order.
func TestDemo_ShowsAWholeLife(t *testing.T) {
	where := newNetwork(t)
	for _, expected := range []struct{ port, taken string }{{port: "4000"}, {port: "4001", taken: "4000"}} {
		t.Run("port "+expected.port, func(t *testing.T) {
			if expected.taken != "" {
				openSession(t, where, "ncat", "-l", "-k", "127.0.0.1", expected.taken)
				eventually(t, "the port is taken", func() error {
					c, err := tryDial(where, "127.0.0.1:"+expected.taken)
					if err == nil {
						c.Close()
					}
					return err
				})
			}
			p := launch(t, setup{space: where, line: []string{binary, "demo", "--idle", "300ms"}})
			p.shows("127.0.0.1:" + expected.port)
			if expected.taken != "" {
				p.shows("4000 is taken")
			}
			page := clientIn(t, where, "", "curl", "-sS", "http://127.0.0.1:"+expected.port)
			if page.status != 0 || page.stdout == "" {
				t.Errorf("curl: %+v", page)
			}
			at := 0
			for _, word := range []string{"starting", "ready", "idle", "asleep"} {
				at += p.shows(word, at)
			}
			p.asleep()
		})
	}
}

// shows waits until text is in what tiproxy printed behind the given offset,
// and returns where it ends, counted from there.
func (p *tiproxy) shows(text string, from ...int) int {
	p.t.Helper()
	skip := 0
	if len(from) > 0 {
		skip = from[0]
	}
	found := -1
	if !p.out.until(bound, func() bool { found = strings.Index(p.out.text()[skip:], text); return found >= 0 }) {
		p.t.Fatalf("tiproxy did not print %q", text)
	}
	return found + len(text)
}
