package process

import (
	"log/slog"
	"sync"
	"syscall"
	"time"

	"tiproxy/internal/pool"
)

// Resource starts the child of one service. It implements pool.Resource.
type Resource struct {
	host   *Host
	cmd    Command
	prober Prober
	log    *slog.Logger
	stop   *stopping
	check  bool // its lives are checks, see runCheck
}

var _ pool.Resource = (*Resource)(nil)

// NewResource returns a Resource whose lives are started by host. log takes
// warnings about children that cannot be stopped or guarded; nil discards them.
func NewResource(host *Host, cmd Command, prober Prober, log *slog.Logger) *Resource {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Resource{host: host, cmd: cmd, prober: prober, log: log, stop: &stopping{}}
	r.SetStop(cmd.StopSignal, cmd.StopTimeout)
	return r
}

// SetStop changes how lives are stopped, the present one included: see Command.
// A stop that has begun goes on as it was.
func (r *Resource) SetStop(signal syscall.Signal, timeout time.Duration) {
	if signal == 0 {
		signal = syscall.SIGTERM
	}
	r.stop.mu.Lock()
	defer r.stop.mu.Unlock()
	r.stop.signal, r.stop.timeout = signal, timeout
}

// stopping is how lives are stopped.
type stopping struct {
	mu      sync.Mutex
	signal  syscall.Signal
	timeout time.Duration
}

func (s *stopping) now() (signal syscall.Signal, timeout time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signal, s.timeout
}
