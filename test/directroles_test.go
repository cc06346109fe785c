//go:build linux

package e2e

import (
	"fmt"
	"net"
	"sync"
)

// hospitable is a server that tells its guests who they are, and that can be
// told to listen no more, and anew.
type hospitable struct {
	address string
	mu      sync.Mutex
	door    net.Listener
}

func newHost(address string) *hospitable { return &hospitable{address: address, door: listen(address)} }

func (h *hospitable) serve() {
	h.mu.Lock()
	l := h.door
	h.mu.Unlock()
	acceptAll(l, func(c net.Conn) {
		answer(c, func(line string) string { return h.reply(c, line) })
	})
}

func (h *hospitable) reply(c net.Conn, line string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch line {
	case "close your door":
		h.door.Close()
		return "closed"
	case "open your door":
		h.door = listen(h.address)
		go h.serve()
		return "open"
	}
	return fmt.Sprint(c.RemoteAddr(), " ", c.LocalAddr())
}
