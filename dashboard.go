package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"tiproxy/internal/dashboard"
)

// dashboardCommand shows a running tiproxy in a browser, which cannot open a
// unix socket by itself.
func dashboardCommand(child []string) *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use: "dashboard", Short: "Show a running tiproxy in a browser",
		Long: `Prints an address of this machine. A browser that opens it shows the services of
the running tiproxy, live, with buttons to wake, stop and hold them. The address
works once, and for one browser; the page works until this command is ended.`,
		Example: "  tiproxy dashboard\n  tiproxy dashboard --listen 127.0.0.1:8080   # for ssh -L 8080:127.0.0.1:8080",
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "show it at this `ADDR` of this machine; port 0 is a free one")
	complaints := cmd.ErrOrStderr
	return asking(child, cmd, 0, func(q question) error {
		if err := onlyHere(listen); err != nil {
			return &usageError{fmt.Errorf("--listen: %w", err)}
		}
		if err := q.get("/api/v1/version", nil); err != nil {
			return err
		}
		ctx, cancel := signal.NotifyContext(q.ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer cancel()
		return showDashboard(ctx, q, listen, complaints())
	})
}

// onlyHere refuses addresses that other machines reach.
func onlyHere(listen string) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("%q is no address: write for example 127.0.0.1:8080", listen)
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%q can be reached by other machines, and nothing is encrypted: write 127.0.0.1:PORT, and lead others there through a tunnel (ssh -L)", listen)
}

// showDashboard serves the page until ctx is done.
func showDashboard(ctx context.Context, q question, listen string, notes io.Writer) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		var sys syscall.Errno
		if errors.As(err, &sys) {
			err = sys
		}
		return fmt.Errorf("listen on %s: %w", listen, err)
	}
	door, word := dashboard.OpeningOnce()
	fmt.Fprintf(q.out, "http://%s/?token=%s\n", l.Addr(), word)
	fmt.Fprintf(notes, "%s\n", strings.TrimSpace(`
the dashboard of `+q.at.String()+`: the address works once, for one browser;
the page works until this is ended (ctrl-c)`))
	return dashboard.Serve(ctx, l, door, q.client)
}
