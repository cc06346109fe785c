package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"tiproxy/internal/admin"
)

// healthcheckTime bounds the question.
const healthcheckTime = 3 * time.Second

// healthcheckCommand asks a running tiproxy whether it is well.
func healthcheckCommand(child []string) *cobra.Command {
	return asking(child, &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask a running tiproxy whether it is well, as a container's HEALTHCHECK does",
		Long: `Asks a running tiproxy whether it is well, and ends with status 0 if it is and
1 if it is not, or does not answer within 3 s. This neither wakes the child nor
keeps it awake.`,
		Example: "  tiproxy healthcheck\n  tiproxy healthcheck --admin unix:/run/tiproxy.sock",
	}, 0, func(q question) error {
		ctx, cancel := context.WithTimeout(q.ctx, healthcheckTime)
		defer cancel()
		if err := q.told(admin.Check(ctx, q.at)); err != nil {
			return fmt.Errorf("not healthy: %w", err)
		}
		fmt.Fprintln(q.out, "ok")
		return nil
	})
}
