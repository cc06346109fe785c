package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"tiproxy/internal/admin"
	"tiproxy/internal/config"
)

// healthcheckTime bounds the question.
const healthcheckTime = 3 * time.Second

// healthcheckCommand asks a running tiproxy whether it is well.
func healthcheckCommand(child []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask a running tiproxy whether it is well, as a container's HEALTHCHECK does",
		Long: `Asks the tiproxy that was started with the same --admin whether it is well, and
ends with status 0 if it is and 1 if it is not, or does not answer within 3 s.
This neither wakes the child nor keeps it awake.`,
		Example: "  tiproxy healthcheck --admin unix:/run/tiproxy.sock\n  TIPROXY_ADMIN=unix:/run/tiproxy.sock tiproxy healthcheck",
		Args:    cobra.ArbitraryArgs,
	}
	cmd.Flags().String("admin", "", "where to ask: `ADDR` (default: what TIPROXY_ADMIN says)")
	cmd.RunE = func(cmd *cobra.Command, words []string) error {
		if words = append(words, child...); len(words) > 0 {
			return &usageError{fmt.Errorf("leftover word %q: tiproxy healthcheck takes none, leave it out", words[0])}
		}
		at, err := whereToAsk(readValue(cmd.Flags(), "admin"))
		if err != nil {
			return &usageError{err}
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), healthcheckTime)
		defer cancel()
		if err := admin.Check(ctx, at.Path); err != nil {
			return fmt.Errorf("not healthy: %w", err)
		}
		fmt.Fprintln(cmd.OutOrStdout(), "ok")
		return nil
	}
	return cmd
}

func whereToAsk(v config.Value) (config.Addr, error) {
	if v.Text == "" {
		return config.Addr{}, errors.New("tiproxy healthcheck must know where to ask: write --admin unix:/PATH as for the tiproxy that runs, or set TIPROXY_ADMIN")
	}
	at, err := readAdmin(v, nil)
	if err != nil {
		return at, &config.Problem{From: v.From, Err: err}
	}
	return at, nil
}
