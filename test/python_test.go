//go:build linux

package e2e

import (
	"strings"
	"testing"
)

// Python's server listens on [::] for both families; the dest names only one.
func TestPython_DualStackServer(t *testing.T) {
	for _, dest := range []string{"127.0.0.1", "[::1]", "localhost"} {
		t.Run(dest, func(t *testing.T) {
			t.Parallel()
			port, dir := freePort(t), sharedDir(t)
			write(t, dir+"/page", []byte("a page\n"))
			p := run(t, setup{
				dest: dest + ":" + port, program: "/usr/bin/python3",
				flags: []string{"--idle", "200ms", "--workdir", dir},
				args:  []string{"-m", "http.server", "--bind", "::", port},
			})
			for range 2 {
				if got := mustClient(t, "", "curl", "-sS", "http://"+p.address()+"/page"); got != "a page\n" {
					t.Errorf("got %q", got)
				}
				p.expect("closed")
				p.asleep()
			}
			if !strings.Contains(p.log.text(), "GET /page") {
				t.Error("the server's own log did not reach stderr")
			}
		})
	}
}
