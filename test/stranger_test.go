//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Somebody else listens where the child should. No client may reach him, and
// the person who reads the log must learn who he is.
func TestStranger_IsRefusedAndNamed(t *testing.T) {
	for _, bind := range []string{"127.0.0.1", ""} {
		t.Run("on "+net.JoinHostPort(bind, "port"), func(t *testing.T) {
			port := freePort(t)
			stranger, err := net.Listen("tcp", net.JoinHostPort(bind, port))
			if err != nil {
				t.Fatal(err)
			}
			defer stranger.Close()
			visited := make(chan struct{})
			go func() {
				if c, err := stranger.Accept(); err == nil {
					c.Close()
					close(visited)
				}
			}()
			witness := filepath.Join(sharedDir(t), "started")
			p := run(t, setup{
				dest: "127.0.0.1:" + port, program: self, args: []string{"role", "touch", witness},
				allow: []string{"start failed"},
			})
			if answer, err := askAfresh(t, host(), p.address(), "password=secret"); !wasReset(err) {
				t.Errorf("the client got %q, %v; want a reset", answer, err)
			}
			if e := p.expect("start failed"); !strings.Contains(e.line, fmt.Sprint(os.Getpid())) {
				t.Errorf("the log should name process %d: %s", os.Getpid(), e.line)
			}
			if _, err := os.Stat(witness); err == nil {
				t.Error("the child was started though its port is taken")
			}
			select {
			case <-visited:
				t.Error("somebody connected to the stranger")
			default:
			}

			// It heals by itself when the stranger has gone.
			stranger.Close()
			p.asleep()
		})
	}
}
