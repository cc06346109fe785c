package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tiproxy/internal/admin"
	"tiproxy/internal/config"
)

// verbCommands are the commands that change something.
func verbCommands(child []string) []*cobra.Command {
	return []*cobra.Command{
		asking(child, &cobra.Command{
			Use: "start NAME", Short: "Wake a service's child, and wait until it is ready",
			Long: "Wakes the child of a service as a client does, and waits until it is ready. It\nsleeps again after the idle time if nobody comes.",
		}, 1, func(q question) error {
			return q.order(admin.Start, "", func(s admin.Service) string { return "is " + s.State })
		}),
		asking(child, &cobra.Command{
			Use: "stop NAME", Short: "Put a service's child to sleep",
			Long: "Lets open connections finish for the service's drain timeout, then stops the\nchild, and waits until nothing of it is left. The next client wakes it again. A\nhold is over.",
		}, 1, func(q question) error {
			return q.order(admin.Stop, "", func(s admin.Service) string { return "is " + s.State })
		}),
		asking(child, &cobra.Command{
			Use: "hold NAME DURATION", Short: "Keep a service's child awake for a while",
			Long:    "Wakes the child of a service, keeps it awake for that long and starts it again if\nit crashes. A newer hold replaces an older one; tiproxy release and tiproxy stop\nend it.",
			Example: "  tiproxy hold db 2h",
		}, 2, holdOrder),
		asking(child, &cobra.Command{
			Use: "release NAME", Short: "End a hold",
			Long: "Ends a hold. The child sleeps after the idle time if nobody is connected.",
		}, 1, func(q question) error {
			return q.order(admin.Release, "", func(s admin.Service) string { return "is not held, and is " + s.State })
		}),
		asking(child, &cobra.Command{
			Use: "reload", Short: "Have a running tiproxy read its configuration file again",
			Long: "Has the running tiproxy read its configuration file again. A wrong one changes\nnothing.",
		}, 0, reloadCommand),
	}
}

// holdOrder checks the time here, as it is a mistake of the command line.
func holdOrder(q question) error {
	d, err := config.ParseDuration(q.words[1])
	if err != nil || d <= 0 {
		return &usageError{fmt.Errorf("%q is no time to hold a service for: write for example 90s, 2h or 1h30m", q.words[1])}
	}
	return q.order(admin.Hold, "?for="+url.QueryEscape(d.String()), func(s admin.Service) string {
		return fmt.Sprintf("is %s and held until %s", s.State, moment(s.HeldUntil, time.Now()))
	})
}

// order has a verb carried out and says what came of it.
func (q question) order(v admin.Verb, query string, says func(admin.Service) string) error {
	var s admin.Service
	name := q.words[0]
	if err := q.post(servicePath(name, string(v))+query, &s); err != nil {
		var p *admin.Problem
		if errors.As(err, &p) && p.Status == http.StatusBadGateway {
			return fmt.Errorf("%w (tiproxy status %s and tiproxy logs %s tell more)", err, name, name)
		}
		return err
	}
	fmt.Fprintf(q.out, "%s %s\n", s.Name, says(s))
	return nil
}

func reloadCommand(q question) error {
	var changed admin.Reloaded
	if err := q.post("/api/v1/reload", &changed); err != nil {
		return err
	}
	sayReloaded(q.out, changed)
	return nil
}

// sayReloaded says what has changed.
func sayReloaded(out io.Writer, r admin.Reloaded) {
	var said []string
	for _, part := range []struct {
		what  string
		names []string
	}{{"added", r.Added}, {"changed", r.Changed}, {"removed", r.Removed}} {
		if len(part.names) > 0 {
			said = append(said, part.what+" "+strings.Join(part.names, ", "))
		}
	}
	if len(said) == 0 {
		said = []string{"nothing has changed"}
	}
	fmt.Fprintf(out, "reloaded: %s\n", strings.Join(said, "; "))
}
