package main

import (
	"slices"
	"testing"
	"time"

	"tiproxy/internal/config"
)

// Every setting of a service is taken note of when it changes, and at the moment
// from which on it can be had.
func TestCompare(t *testing.T) {
	old := config.Service{Name: "db", Idle: time.Minute, Args: []string{"a"}, MaxConnections: 100}
	for _, c := range []struct {
		what   string
		change func(*config.Service)
		want   change
	}{
		{"nothing", func(*config.Service) {}, change{}},
		{"idle", func(s *config.Service) { s.Idle = 0 }, change{live: true}},
		{"stop signal", func(s *config.Service) { s.StopSignal = 9 }, change{live: true}},
		{"who may connect", func(s *config.Service) { s.MaxPerSource = 3 }, change{live: true}},
		{"most connections", func(s *config.Service) { s.MaxConnections = 50 }, change{live: true}},
		{"argument", func(s *config.Service) { s.Args = []string{"b"} }, change{nextStart: true}},
		{"environment", func(s *config.Service) { s.Env = []string{"A=b"} }, change{nextStart: true}},
		{"readiness", func(s *config.Service) { s.Ready.Dial = true }, change{nextStart: true}},
		{"dest", func(s *config.Service) { s.Dest.Port = 1 }, change{nextStart: true}},
		{"bind", func(s *config.Service) { s.Bind.Port = 1 }, change{rebind: true}},
		{"path", func(s *config.Service) { s.BytePath = config.PathDirect }, change{replace: true}},
		{"several", func(s *config.Service) { s.Idle, s.Exec = 0, "other" }, change{live: true, nextStart: true}},
	} {
		now := old
		c.change(&now)
		if got := compare(old, now); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.what, got, c.want)
		}
	}
}

// A share that nobody has asked for is no setting of the service.
func TestCompare_Share(t *testing.T) {
	old := config.Service{MaxConnections: 100, Share: true}
	now := config.Service{MaxConnections: 50, Share: true}
	if got := compare(old, now); got != (change{}) {
		t.Errorf("another share: %+v", got)
	}
	now.Share = false
	if got := compare(old, now); got != (change{live: true}) {
		t.Errorf("written: %+v", got)
	}
}

func TestChanges(t *testing.T) {
	of := func(names ...string) (all []config.Service) {
		for _, n := range names {
			all = append(all, config.Service{Name: n})
		}
		return all
	}
	now := of("d", "b", "c")
	now[1].Idle = time.Second
	p := changes(of("a", "b", "c"), now)
	if !slices.Equal(p.kept, []string{"c"}) || len(p.changed) != 1 || p.changed[0].new.Name != "b" ||
		len(p.added) != 1 || p.added[0].Name != "d" || len(p.removed) != 1 || p.removed[0].Name != "a" {
		t.Errorf("%+v", p)
	}
}
