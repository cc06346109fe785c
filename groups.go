package main

import (
	"maps"
	"slices"

	"tiproxy/internal/admin"
	"tiproxy/internal/budget"
	"tiproxy/internal/config"
)

// share has the ledger know what the services have to do with each other from
// now on. A service that leaves without a successor keeps the room that it has
// until it is gone, and gets none any more.
func (p *program) share() {
	all := slices.DeleteFunc(p.services(), p.hasParted)
	plan := budget.Plan{Groups: map[string]budget.Group{}, Terms: map[string]budget.Terms{}}
	for _, g := range p.options.groups {
		plan.Groups[g.Name] = budget.Group{Children: g.Children, Amounts: g.Amounts, Wait: g.Wait}
	}
	for _, v := range all {
		plan.Terms[v.name] = terms(p.options.services[named(p.options.services, v.name)].Together, all)
	}
	if err := p.ledger.Configure(plan); err != nil {
		p.log.Error("the groups stay what they were", "err", err) // config has checked them
	}
}

// hasParted reports whether a service has no part in its group any more. One that
// was removed never gets it again, even if there is to be another of its name.
func (p *program) hasParted(v *service) bool {
	v.parted = v.parted || named(p.options.services, v.name) < 0
	return v.parted
}

// terms are those of one service. They name nobody who is not there yet: who
// connects to him waits in front of his listener.
func terms(t config.Together, all []*service) budget.Terms {
	there := func(names []string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(n string) bool {
			return !slices.ContainsFunc(all, func(v *service) bool { return v.name == n })
		})
	}
	return budget.Terms{Group: t.Group, Uses: t.Uses, Needs: there(t.Needs), Wake: there(t.Wake)}
}

// queued are how many clients wait for room for each service.
func (p *program) queued() map[string]int {
	all := map[string]int{}
	for _, g := range p.ledger.Snapshot() {
		for _, w := range g.Queue {
			all[w.Service] = max(all[w.Service], w.Clients) // one queue may be seen from several groups
		}
	}
	return all
}

// Groups implements admin.Program.
func (a api) Groups() []admin.Group {
	all := []admin.Group{}
	for _, g := range a.p.ledger.Snapshot() {
		all = append(all, shownGroup(g))
	}
	return all
}

// shownGroup is a group as people see it.
func shownGroup(g budget.GroupState) admin.Group {
	out := admin.Group{Name: g.Name, Services: []string{}, Waiting: []string{}, Resources: []admin.Resource{}}
	for _, m := range g.Members {
		out.Services = append(out.Services, m.Name)
	}
	for _, w := range g.Queue {
		out.Waiting = append(out.Waiting, w.Service)
	}
	if g.Children > 0 {
		out.Resources = append(out.Resources, admin.Resource{Name: "children", Limit: int64(g.Children), Used: int64(g.UsedChildren)})
	}
	for _, name := range slices.Sorted(maps.Keys(g.Amounts)) {
		out.Resources = append(out.Resources, admin.Resource{Name: name, Limit: g.Amounts[name], Used: g.Used[name]})
	}
	return out
}
