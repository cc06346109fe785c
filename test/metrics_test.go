//go:build linux

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// metric is the value of one series that tiproxy shows on its admin socket, "" if
// there is none.
func metric(t *testing.T, socket, series string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}, Timeout: bound}
	answer, err := client.Get("http://tiproxy/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v: %s", answer.Status, err, text)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, series+" "); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// What is counted is shown, service by service, and asking wakes nobody.
func TestMetrics_SayWhatHasHappened(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(sharedDir(t), "admin")
	p := runFile(t, fmt.Sprintf(`
admin: unix:%[2]s
defaults: {idle: 200ms}
services:
  one: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: %[1]s, args: [role, echo, "127.0.0.1:{port}"]}
  two: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: %[1]s, args: [role, echo, "127.0.0.1:{port}"]}
`, self, socket))
	is := func(want string, series string) {
		t.Helper()
		eventually(t, series+" "+want, func() error {
			if got := metric(t, socket, series); got != want {
				return fmt.Errorf("it is %q", got)
			}
			return nil
		})
	}
	is("1", `tiproxy_backend_state{service="one",state="closed"}`)
	c := dial(t, host(), p.bindOf("one"))
	mustAsk(t, c, "hello")
	is("1", `tiproxy_backend_state{service="one",state="opened"}`)
	is("1", `tiproxy_connections_active{service="one"}`)
	is("1", `tiproxy_backend_ready_duration_seconds_count{service="one"}`)
	is("1", `tiproxy_connection_wait_seconds_count{service="one"}`)
	c.Close()
	is("1", `tiproxy_connections_total{result="closed",service="one"}`)
	is("1", `tiproxy_connection_duration_seconds_count{service="one"}`)
	is("6", `tiproxy_bytes_total{direction="up",service="one"}`)
	is("1", `tiproxy_backend_stops_total{reason="idle",service="one"}`)
	is("1", `tiproxy_backend_starts_total{result="opened",service="one"}`)
	is("1", `tiproxy_backend_state{service="one",state="closed"}`)
	is("0", `tiproxy_backend_starts_total{result="opened",service="two"}`)
	is("1", `tiproxy_config_last_reload_successful`)
	if p.lives("one") != 1 || p.lives("two") != 0 {
		t.Error("asking has woken somebody")
	}
}
