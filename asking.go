package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"tiproxy/internal/admin"
	"tiproxy/internal/config"
)

// question is what a command that asks a running tiproxy has: where to ask, and
// what was written.
type question struct {
	ctx    context.Context
	at     admin.Target
	client *admin.Client
	words  []string
	out    io.Writer
}

// answerTime bounds what is answered at once.
const answerTime = 10 * time.Second

// asking makes a command of one that asks a running tiproxy. It takes exactly
// that many words, or, if that is negative, up to as many.
func asking(child []string, cmd *cobra.Command, words int, do func(question) error) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.Flags().String("admin", "", "where to ask: `ADDR` (default: TIPROXY_ADMIN, or where tiproxy run is asked)")
	cmd.Flags().String("admin-token-file", "", "the `FILE` with the token, for an ADDR on TCP")
	cmd.ValidArgsFunction = completeNames
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		if err := countWords(cmd, append(given, child...), words); err != nil {
			return &usageError{err}
		}
		at, err := whereToAsk(cmd)
		if err != nil {
			return &usageError{err}
		}
		q := question{ctx: cmd.Context(), at: at.target(), words: given, out: cmd.OutOrStdout()}
		q.client = admin.NewClient(q.at)
		defer q.client.Close()
		return do(q)
	}
	return cmd
}

// countWords checks how many words there are.
func countWords(cmd *cobra.Command, given []string, words int) error {
	most := max(words, -words)
	switch {
	case len(given) > most && most == 0:
		return fmt.Errorf("leftover word %q: tiproxy %s takes none, leave it out", given[0], cmd.Name())
	case len(given) > most:
		return fmt.Errorf("leftover word %q: write tiproxy %s", given[most], cmd.Use)
	case len(given) < words:
		return fmt.Errorf("tiproxy %s needs more words: write tiproxy %s", cmd.Name(), cmd.Use)
	}
	return nil
}

// whereToAsk is where the running tiproxy is.
func whereToAsk(cmd *cobra.Command) (adminPlace, error) {
	v, file := readValue(cmd.Flags(), "admin"), readValue(cmd.Flags(), "admin-token-file")
	if v.Text == "" && !v.Given {
		at := usualAdmin()
		if at.at.Network == "" {
			return at, fmt.Errorf("tiproxy %s must know where to ask: write --admin ADDR as for the tiproxy that runs, or set TIPROXY_ADMIN", cmd.Name())
		}
		return at, nil
	}
	at, err := readAdmin(v, file, nil)
	if err == nil && at.at.Network == "" {
		err = &config.Problem{From: v.From, Err: errors.New("is off: write where the tiproxy that runs is asked")}
	}
	return at, err
}

// path is the address of a service in the API, and of what there is below it.
func servicePath(name string, below ...string) string {
	return strings.Join(append([]string{"/api/v1/services/" + url.PathEscape(name)}, below...), "/")
}

// get asks for what is answered at once.
func (q question) get(path string, answer any) error {
	ctx, cancel := context.WithTimeout(q.ctx, answerTime)
	defer cancel()
	return q.told(q.client.Get(ctx, path, answer))
}

// post asks for something to be done, which takes as long as it takes.
func (q question) post(path string, answer any) error {
	return q.told(q.client.Post(q.ctx, path, answer))
}

// told says of a question that nobody has answered at the usual place who else
// may be asked.
func (q question) told(err error) error {
	var sys syscall.Errno
	if !errors.As(err, &sys) || sys != syscall.ENOENT && sys != syscall.ECONNREFUSED || q.at != usualAdmin().target() {
		return err
	}
	return fmt.Errorf("ask %v: %w: is tiproxy run running, as this user? One that is asked elsewhere is named by --admin ADDR or TIPROXY_ADMIN", q.at, sys)
}

// completeNames offers the names of the services that there are.
func completeNames(cmd *cobra.Command, given []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp
	at, err := whereToAsk(cmd)
	if err != nil || len(given) > 0 || !strings.Contains(cmd.Use, "NAME") {
		return nil, directive
	}
	q := question{ctx: context.Background(), at: at.target(), client: admin.NewClient(at.target())}
	defer q.client.Close()
	list, err := q.services()
	if err != nil {
		return nil, directive
	}
	var names []cobra.Completion
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names, directive
}

// services asks for all services.
func (q question) services() ([]admin.Service, error) {
	var answer struct{ Services []admin.Service }
	err := q.get("/api/v1/services", &answer)
	return answer.Services, err
}
