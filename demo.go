package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"tiproxy/internal/config"
)

const (
	demoPort   = 4000            // the first one tried
	demoPorts  = 100             // how many are tried
	demoIdle   = "5s"            // short enough to watch
	demoWarmUp = 1 * time.Second // what the demo's server pretends to need
)

// demoCommand is the whole program in front of a small server that is this
// same binary: to be watched, with nothing to install.
func demoCommand(child []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it work: a small web server that sleeps until you curl it",
		Long: `Runs tiproxy in front of a small web server that is built in, and tells in
plain words what happens: the server is started by the first client, and
stopped when nobody has been connected for a while.`,
		Example: "  tiproxy demo\n  tiproxy demo --idle 10s --bind 127.0.0.1:8080",
		Args:    cobra.ArbitraryArgs,
	}
	cmd.Flags().String("bind", "", "where clients connect: `ADDR` (default 127.0.0.1:4000, or the next free port)")
	cmd.Flags().String("idle", demoIdle, "stop the server when nobody has been connected for this `TIME`")
	cmd.RunE = func(cmd *cobra.Command, words []string) error {
		if words = append(words, child...); len(words) > 0 {
			return &usageError{fmt.Errorf("leftover word %q: tiproxy demo brings its own server, leave it out", words[0])}
		}
		bind, _ := cmd.Flags().GetString("bind")
		idle, _ := cmd.Flags().GetString("idle")
		return demo(bind, idle)
	}
	return cmd
}

// demo runs the demo until it is told to stop.
func demo(bindText, idle string) error {
	moved, port := "", demoPort
	if bindText == "" {
		var err error
		if port, err = freePort(demoPort); err != nil {
			return err
		}
		if port != demoPort {
			moved = fmt.Sprintf("Port %d is taken, so this is port %d.", demoPort, port)
		}
		bindText = loopback(port)
	}
	service, err := demoService(bindText, idle, port+1)
	if err != nil {
		return &usageError{err}
	}
	n := &narrator{moved: moved, idle: service.Idle, start: time.Now()}
	return run(options{services: []config.Service{service}, handler: n.attach})
}

// demoService is the demo's settings. The server's port is looked for from
// port on.
func demoService(bindText, idle string, port int) (config.Service, error) {
	self, err := os.Executable()
	if err != nil {
		return config.Service{}, fmt.Errorf("cannot find my own program file: %w", err)
	}
	bind, err := config.ParseBind(bindText)
	if err == nil && bind.Network == "tcp" && int(bind.Port) == port {
		port++
	}
	dest, err := freePort(port)
	if err != nil {
		return config.Service{}, err
	}
	given := func(name, text string) config.Value {
		return config.Value{From: "--" + name, Text: text, Given: true}
	}
	return config.Check(config.Text{
		Bind: given("bind", bindText), Dest: given("dest", loopback(dest)),
		Exec: given("exec", self), Idle: given("idle", idle),
		Args: []string{demoServerName, loopback(dest)},
	})
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// freePort returns the first port from first on on which nobody listens.
func freePort(first int) (int, error) {
	for port := first; port < first+demoPorts; port++ {
		l, err := net.Listen("tcp", loopback(port))
		if err == nil {
			l.Close()
			return port, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return 0, err
		}
	}
	return 0, fmt.Errorf("no free port between %d and %d: write one with --bind 127.0.0.1:PORT", first, first+demoPorts-1)
}

// attach makes the narrator write to the program's standard output.
func (n *narrator) attach(out io.Writer) slog.Handler {
	n.out = out
	n.colour = onTerminal(os.Stdout) && colourWanted()
	return n
}
