package pooltest

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"tiproxy/internal/pool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakes is the Harness of the fake resource. wrap, if set, puts a fault into
// every life.
func fakes(wrap func(*Life) pool.Life) Harness {
	scripts := map[Behaviour]Script{
		Obedient:   {Ready: time.Millisecond, Stop: time.Millisecond},
		NeverReady: {Ready: Manual, Stop: time.Millisecond},
		Stubborn:   {Stop: Manual},
		Parent:     {Stop: time.Millisecond},
		Broken:     {SpawnError: errors.New("no such program")},
	}
	if wrap == nil {
		wrap = func(l *Life) pool.Life { return l }
	}
	left := false
	return Harness{
		Make: func(b Behaviour) pool.Resource {
			left = b == Parent
			return wrapped{New(scripts[b]), wrap}
		},
		End: func(l pool.Life) {
			bare(l).End(pool.Exit{Status: "exit status 0", Left: left})
		},
		Alive: func(l pool.Life) bool { return !bare(l).Gone() },
	}
}

type wrapped struct {
	*Resource
	wrap func(*Life) pool.Life
}

func (w wrapped) Start(ctx context.Context, gen uint64) (pool.Life, error) {
	l, err := w.Resource.Start(ctx, gen)
	if err != nil {
		return nil, err
	}
	return w.wrap(l.(*Life)), nil
}

func bare(l pool.Life) *Life {
	if f, ok := l.(faulty); ok {
		return f.Life
	}
	return l.(*Life)
}

// faulty is a Life with some methods replaced.
type faulty struct {
	*Life
	ready  func(context.Context) (net.Addr, error)
	exited func() <-chan pool.Exit
	stop   func(context.Context)
}

func (f faulty) Ready(ctx context.Context) (net.Addr, error) {
	if f.ready != nil {
		return f.ready(ctx)
	}
	return f.Life.Ready(ctx)
}

func (f faulty) Exited() <-chan pool.Exit {
	if f.exited != nil {
		return f.exited()
	}
	return f.Life.Exited()
}

func (f faulty) Stop(ctx context.Context) {
	if f.stop != nil {
		f.stop(ctx)
		return
	}
	f.Life.Stop(ctx)
}

func TestFakePassesSuite(t *testing.T) {
	TestResource(t, func(*testing.T) Harness { return fakes(nil) })
}

// relayed delivers the exits that change makes of the real one.
func relayed(l *Life, change func(pool.Exit) []pool.Exit) faulty {
	c := make(chan pool.Exit, 2)
	go relay(c, l, change)
	return faulty{Life: l, exited: func() <-chan pool.Exit { return c }}
}

func relay(to chan<- pool.Exit, l *Life, change func(pool.Exit) []pool.Exit) {
	for _, e := range change(<-l.Exited()) {
		to <- e
	}
}

// Every fault of a life is found by the check that is there for it.
func TestSuiteFindsFaults(t *testing.T) {
	for _, tt := range faults {
		t.Run(tt.fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var lives []*Life
				err := checkNamed(t, tt.found).run(fakes(func(l *Life) pool.Life {
					lives = append(lives, l)
					return tt.wrap(l)
				}))
				if err == nil {
					t.Errorf("check %q passes", tt.found)
				}
				for _, l := range lives { // a fault may have kept them from being stopped
					l.kill()
				}
			})
		})
	}
}

var faults = []struct {
	fault string
	wrap  func(l *Life) pool.Life
	found string // the check that must fail
}{
	{"ready without address", func(l *Life) pool.Life {
		return faulty{Life: l, ready: func(context.Context) (net.Addr, error) { return nil, nil }}
	}, "ready returns an address"},
	{"ready ignores its context", func(l *Life) pool.Life {
		return faulty{Life: l, ready: func(context.Context) (net.Addr, error) { return l.Ready(context.Background()) }}
	}, "ready ends with its context"},
	{"ready ignores the end", func(l *Life) pool.Life {
		return faulty{Life: l, ready: func(ctx context.Context) (net.Addr, error) {
			if addr, err := l.Ready(ctx); err == nil {
				return addr, nil
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}}
	}, "ready fails once the life has ended"},
	{"pending ready ignores the end", func(l *Life) pool.Life {
		return faulty{Life: l, ready: func(ctx context.Context) (net.Addr, error) {
			if !l.Ended() && l.script.Ready == Manual {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return l.Ready(ctx)
		}}
	}, "pending ready fails when the life is stopped"},
	{"exit twice", func(l *Life) pool.Life {
		return relayed(l, func(e pool.Exit) []pool.Exit { return []pool.Exit{e, e} })
	}, "exit by itself is one value"},
	{"exit not told what is left", func(l *Life) pool.Life {
		return relayed(l, func(e pool.Exit) []pool.Exit { e.Left = false; return []pool.Exit{e} })
	}, "exit tells what is left"},
	{"exit never told", func(l *Life) pool.Life {
		return relayed(l, func(pool.Exit) []pool.Exit { return nil })
	}, "stop returns when all is gone"},
	{"stop does not wait", func(l *Life) pool.Life {
		return faulty{Life: l, stop: func(ctx context.Context) { go l.Stop(ctx) }}
	}, "stop returns when all is gone"},
	{"stop only until the process has ended", func(l *Life) pool.Life {
		return faulty{Life: l, stop: func(ctx context.Context) {
			if !l.Ended() || ctx.Err() != nil {
				l.Stop(ctx)
			}
		}}
	}, "stop ends what is left"},
	{"stop of nothing waits", func(l *Life) pool.Life {
		return faulty{Life: l, stop: func(ctx context.Context) {
			if l.Stop(ctx); l.script.Stop == Manual {
				<-ctx.Done()
			}
		}}
	}, "stop of a life that is gone returns at once"},
	{"stop is always forceful", func(l *Life) pool.Life {
		return faulty{Life: l, stop: func(context.Context) { l.kill() }}
	}, "stop is forceful when its context ends"},
	{"stop looks at its context once", func(l *Life) pool.Life {
		return faulty{Life: l, stop: func(c context.Context) {
			if c.Err() == nil {
				l.Stop(context.Background())
			}
			l.Stop(c)
		}}
	}, "stop is forceful when its context ends"},
	{"stop ignores its context", func(l *Life) pool.Life {
		return faulty{Life: l, stop: func(c context.Context) {
			time.AfterFunc(time.Minute, l.kill)
			l.Stop(context.Background())
		}}
	}, "stop is forceful when its context has ended"},
	{"a second stop does not wait", func(l *Life) pool.Life {
		first := make(chan struct{}, 1)
		first <- struct{}{}
		return faulty{Life: l, stop: func(ctx context.Context) {
			select {
			case <-first:
				l.script.Stop = time.Second
				l.Stop(ctx)
			default:
				if ctx.Err() != nil {
					l.Stop(ctx)
				}
			}
		}}
	}, "stop and ready are safe at the same time"},
}

func checkNamed(t *testing.T, name string) check {
	t.Helper()
	for _, c := range checks {
		if c.name == name {
			return c
		}
	}
	t.Fatalf("no check %q", name)
	return check{}
}

// The rest of the checks is about resources: one that breaks them fails.
func TestSuiteFindsFaultyResources(t *testing.T) {
	tests := []struct {
		found string
		start func(ctx context.Context, inner pool.Resource, gen uint64) (pool.Life, error)
	}{
		{"start works again after stop", func(ctx context.Context, inner pool.Resource, gen uint64) (pool.Life, error) {
			if gen > 1 {
				return nil, errors.New("address in use")
			}
			return inner.Start(ctx, gen)
		}},
		{"start works again after an exit without stop", func(ctx context.Context, inner pool.Resource, gen uint64) (pool.Life, error) {
			if gen > 2 {
				return nil, errors.New("address in use")
			}
			return inner.Start(ctx, gen)
		}},
		{"life outlives the context of its start", func(ctx context.Context, inner pool.Resource, gen uint64) (pool.Life, error) {
			l, err := inner.Start(ctx, gen)
			if err == nil {
				context.AfterFunc(ctx, bare(l).kill)
			}
			return l, err
		}},
		{"failed start leaves nothing", func(context.Context, pool.Resource, uint64) (pool.Life, error) {
			return nil, nil
		}},
	}
	for _, tt := range tests {
		t.Run(tt.found, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := fakes(nil)
				healthy := h.Make
				h.Make = func(b Behaviour) pool.Resource { return startFunc{healthy(b), tt.start} }
				if err := checkNamed(t, tt.found).run(h); err == nil {
					t.Errorf("check %q passes", tt.found)
				}
			})
		})
	}
}

type startFunc struct {
	inner pool.Resource
	start func(context.Context, pool.Resource, uint64) (pool.Life, error)
}

func (s startFunc) Start(ctx context.Context, gen uint64) (pool.Life, error) {
	return s.start(ctx, s.inner, gen)
}

// The fake's own account finds a user who does not wait for the end of a life.
func TestFakeFindsBrokenRules(t *testing.T) {
	ctx := context.Background()
	tests := []struct {
		rule string
		use  func(r *Resource)
	}{
		{"start 2 while something of life 1 is left", func(r *Resource) {
			r.Start(ctx, 1)
			r.Last().End(pool.Exit{Left: true})
			r.Start(ctx, 2)
		}},
		{"a generation was started twice", func(r *Resource) {
			for range 2 {
				r.Start(ctx, 1)
				r.Last().End(pool.Exit{})
			}
		}},
		{"while another start is under way", func(r *Resource) {
			r.SetScript(Script{Spawn: time.Second})
			together(2, func(i int) { r.Start(ctx, uint64(i+1)) })
		}},
	}
	for _, tt := range tests {
		t.Run(tt.rule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &Resource{}
				tt.use(r)
				if err := r.Err(); err == nil || !strings.Contains(err.Error(), tt.rule) {
					t.Errorf("broken rules: %v, want %q", err, tt.rule)
				}
			})
		})
	}
}

// A context may end while a start is on its way: it then fails, and nothing of
// it exists, as with the real ones.
func TestFakeStartsNothingLate(t *testing.T) {
	why := errors.New("the reason")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	r := &Resource{}
	if l, err := r.Start(ctx, 1); l != nil || !errors.Is(err, why) || r.Last() != nil {
		t.Errorf("life %v, error %v", l, err)
	}
	if err := r.Err(); err != nil || r.Starting() {
		t.Errorf("broken rules: %v; starting: %v", err, r.Starting())
	}
}
