package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"tiproxy/internal/admin"
)

// logsCommand shows what a service's child printed.
func logsCommand(child []string) *cobra.Command {
	var follow, asJSON bool
	cmd := &cobra.Command{
		Use: "logs [-f] NAME", Short: "Show what a service's child printed",
		Long:    "Shows the last lines that the child of a service printed, on both its streams,\nand with -f those that it prints from then on.",
		Example: "  tiproxy logs -f db",
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what it prints from now on")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line, with time and stream")
	return asking(child, cmd, 1, func(q question) error {
		write := writeLine
		if asJSON {
			write = writeData
		}
		if !follow {
			_, err := q.lines("?follow=0", "", write)
			return err
		}
		last := ""
		for {
			seen, err := q.lines("", last, write)
			if err != nil {
				return err
			}
			last = seen // too slow: go on from there
		}
	})
}

// lines writes a stream of output. It returns the id of the last line when it
// ends because it was read too slowly, or because only history was asked for.
func (q question) lines(query, last string, write func(io.Writer, []byte) error) (string, error) {
	s, err := q.client.Stream(q.ctx, servicePath(q.words[0], "output")+query, last)
	if err != nil {
		return last, q.told(err)
	}
	defer s.Close()
	for {
		m, err := s.Next()
		switch {
		case errors.Is(err, io.EOF) && query != "":
			return last, nil
		case err != nil:
			return last, gone(q.at)
		case m.Kind == admin.KindDropped:
			return last, nil
		}
		last = m.ID
		if err := write(q.out, m.Data); err != nil {
			return last, err
		}
	}
}

// gone is the end of a stream that was to go on.
func gone(at admin.Target) error {
	return fmt.Errorf("the tiproxy at %v has ended, or does not know the service any more", at)
}

// writeLine writes a line as the child did.
func writeLine(out io.Writer, data []byte) error {
	var l admin.Line
	if err := json.Unmarshal(data, &l); err != nil {
		return fmt.Errorf("a line was not understood: %w", err)
	}
	_, err := fmt.Fprintln(out, l.Line)
	return err
}

// writeData writes a line as it came.
func writeData(out io.Writer, data []byte) error {
	_, err := fmt.Fprintf(out, "%s\n", data)
	return err
}
