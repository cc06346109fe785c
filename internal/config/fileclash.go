package config

import "fmt"

// clashes finds services that would be in each other's way. Of several that a
// service is in the way of, the first is told.
func (p *parser) clashes(all []*draft, admin Value) {
	files := map[string]*draft{}
	binds, dests := map[string][]*draft{}, map[string][]*draft{}
	for _, d := range all {
		p.clash(d, binds, dests)
		for _, word := range p.places.near(d.Bind) {
			binds[word] = append(binds[word], d)
		}
		for _, word := range p.places.near(d.Dest) {
			dests[word] = append(dests[word], d)
		}
		if other := files[d.Logs.File]; other != nil && d.Logs.File != "" {
			p.note(d.text.Logs, fmt.Errorf("%s is where the output of service %s goes: write another file, or a directory, such as file:/var/log/tiproxy/", d.Logs.File, other.Name))
		}
		files[d.Logs.File] = d
	}
	for _, d := range all {
		if other := p.first(d.Dest, binds, func(other *draft) bool { return other != d && p.places.same(other.Bind, d.Dest) }); other != nil {
			p.note(d.text.Dest, fmt.Errorf("%s is where service %s takes its clients (%s): give the child another address", d.Dest, other.Name, other.text.Bind.From))
		}
	}
	p.adminClashes(all, admin)
}

// clash compares a service to those before it.
func (p *parser) clash(d *draft, binds, dests map[string][]*draft) {
	if other := p.first(d.Bind, binds, func(other *draft) bool { return p.either(d.Bind, other.Bind) }); other != nil {
		p.note(d.text.Bind, fmt.Errorf("%s%s is where service %s takes its clients (%s): give one of them another address", d.Bind, byDefault(d.text.Bind), other.Name, other.text.Bind.From))
	}
	if other := p.first(d.Dest, dests, func(other *draft) bool { return p.either(d.Dest, other.Dest) }); other != nil {
		p.note(d.text.Dest, fmt.Errorf("%s is where the child of service %s listens (%s): give one of them another address", d.Dest, other.Name, other.text.Dest.From))
	}
}

// first is the first of the services near an address for which same is true, nil
// if there is none.
func (p *parser) first(a Addr, services map[string][]*draft, same func(*draft) bool) *draft {
	for _, word := range p.places.near(a) {
		for _, other := range services[word] {
			if same(other) {
				return other
			}
		}
	}
	return nil
}

// either reports whether two addresses, on which somebody listens, are the same.
func (p *parser) either(a, b Addr) bool { return p.places.same(a, b) || p.places.same(b, a) }

func byDefault(v Value) string {
	if v.Given {
		return ""
	}
	return ", the default,"
}

// adminClashes compares where tiproxy can be asked to all services.
func (p *parser) adminClashes(all []*draft, admin Value) {
	a, err := ParseBind(admin.Text)
	if err != nil || admin.broken {
		return // told
	}
	for _, d := range all {
		switch {
		case p.either(a, d.Bind):
			p.note(admin, fmt.Errorf("%s is where service %s takes its clients (%s): write another address", a, d.Name, d.text.Bind.From))
		case p.places.same(a, d.Dest):
			p.note(admin, fmt.Errorf("%s is where the child of service %s listens (%s): write another address", a, d.Name, d.text.Dest.From))
		}
	}
}
