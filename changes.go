package main

import (
	"reflect"
	"slices"

	"tiproxy/internal/config"
)

// change is how the settings of a service differ from what they were, by when
// what is new can be had.
type change struct {
	live      bool // at once, while clients are connected
	nextStart bool // from the child's next start on
	rebind    bool // by listening somewhere else
	replace   bool // only by a service that takes this one's place
}

// compare tells what has changed from old to new.
func compare(old, new config.Service) change {
	return change{
		live:      !reflect.DeepEqual(ofProxy(old), ofProxy(new)),
		nextStart: !reflect.DeepEqual(ofChild(old), ofChild(new)),
		rebind:    old.Bind != new.Bind,
		replace:   old.BytePath != new.BytePath || (old.NotDirect == "") != (new.NotDirect == ""),
	}
}

// ofChild are the settings that a child has, or is known by, for its whole life.
func ofChild(s config.Service) config.Service {
	c := config.Service{
		Exec: s.Exec, Path: s.Path, Args: s.Args, Workdir: s.Workdir, Env: s.Env, User: s.User,
		Dest: s.Dest, Ready: s.Ready,
	}
	c.ProxyProtocol = s.ProxyProtocol
	return c
}

// ofProxy are all others, but for where clients come in and the way of bytes.
func ofProxy(s config.Service) config.Service {
	s.Exec, s.Path, s.Args, s.Workdir, s.Env, s.User = "", "", nil, "", nil, nil
	s.Dest, s.Ready, s.ProxyProtocol = config.Addr{}, config.Ready{}, ""
	s.Bind, s.BytePath, s.NotDirect = config.Addr{}, "", ""
	if s.Share { // it changes with the number of services, which is no change of this one
		s.MaxConnections = 0
	}
	return s
}

// plan is what is to become of each service, told apart by their names.
type plan struct {
	kept    []string // nothing
	changed []changed
	added   []config.Service
	removed []config.Service
}

// changed is a service that is to become another one.
type changed struct {
	change
	old, new config.Service
}

// changes compares all services that there are to those that are wanted.
func changes(old, new []config.Service) plan {
	var p plan
	for _, s := range new {
		i := named(old, s.Name)
		if i < 0 {
			p.added = append(p.added, s)
			continue
		}
		if c := compare(old[i], s); c != (change{}) {
			p.changed = append(p.changed, changed{c, old[i], s})
		} else {
			p.kept = append(p.kept, s.Name)
		}
	}
	for _, s := range old {
		if named(new, s.Name) < 0 {
			p.removed = append(p.removed, s)
		}
	}
	return p
}

// named is where the service of that name is, negative if nowhere.
func named(all []config.Service, name string) int {
	return slices.IndexFunc(all, func(s config.Service) bool { return s.Name == name })
}
