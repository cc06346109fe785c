package proxy

import (
	"context"
	"net"
	"sync"

	"tiproxy/internal/pool"
)

// looks shares looks at the child among all who ask at the same time. One look
// takes time for each descriptor of the child, so that a crowd in which
// everybody looked for himself would keep itself waiting.
type looks struct {
	mu      sync.Mutex
	running bool    // a goroutine is at it
	queue   []*look // not begun yet, one for each life at most
}

// look is one look at a life. addr and err are for those who wait for over.
type look struct {
	lease *pool.Lease
	over  chan struct{}
	addr  net.Addr
	err   error
}

// ask returns a look at l's life that begins after this call. It ends early
// with ctx, which is the same for all.
func (q *looks) ask(ctx context.Context, l *pool.Lease) *look {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, one := range q.queue {
		if one.lease.Gen() == l.Gen() {
			return one
		}
	}
	one := &look{lease: l, over: make(chan struct{})}
	q.queue = append(q.queue, one)
	if !q.running {
		q.running = true
		go q.run(ctx)
	}
	return one
}

// run looks as long as somebody asks. Each look is bounded, and so is run.
func (q *looks) run(ctx context.Context) {
	for one := q.take(); one != nil; one = q.take() {
		one.begin(ctx)
	}
}

// take returns the look that is to begin now, nil when nobody asks.
func (q *looks) take() *look {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) == 0 {
		q.running = false
		return nil
	}
	one := q.queue[0]
	q.queue = q.queue[1:]
	return one
}

// begin looks, for a moment only.
func (o *look) begin(ctx context.Context) {
	defer close(o.over)
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	o.addr, o.err = o.lease.Ready(ctx)
}
