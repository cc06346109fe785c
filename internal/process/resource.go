package process

import (
	"log/slog"
	"syscall"

	"tiproxy/internal/pool"
)

// Resource starts the child of one service. It implements pool.Resource.
type Resource struct {
	host   *Host
	cmd    Command
	prober Prober
	log    *slog.Logger
	check  bool // its lives are checks, see runCheck
}

var _ pool.Resource = (*Resource)(nil)

// NewResource returns a Resource whose lives are started by host. log takes
// warnings about children that cannot be stopped or guarded; nil discards them.
func NewResource(host *Host, cmd Command, prober Prober, log *slog.Logger) *Resource {
	if cmd.StopSignal == 0 {
		cmd.StopSignal = syscall.SIGTERM
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Resource{host: host, cmd: cmd, prober: prober, log: log}
}
