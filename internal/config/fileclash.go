package config

import "fmt"

// clashes finds services that would be in each other's way.
func (p *parser) clashes(all []draft, admin Value) {
	files := map[string]draft{}
	for i, d := range all {
		for _, other := range all[:i] {
			p.clash(d, other)
		}
		if other, taken := files[d.Logs.File]; taken && d.Logs.File != "" {
			p.note(d.text.Logs, fmt.Errorf("%s is where the output of service %s goes: write another file, or a directory, such as file:/var/log/tiproxy/", d.Logs.File, other.Name))
		}
		files[d.Logs.File] = d
	}
	p.adminClashes(all, admin)
}

// clash compares two services.
func (p *parser) clash(d, other draft) {
	if p.either(d.Bind, other.Bind) {
		p.note(d.text.Bind, fmt.Errorf("%s%s is where service %s takes its clients (%s): give one of them another address", d.Bind, byDefault(d.text.Bind), other.Name, other.text.Bind.From))
	}
	if p.either(d.Dest, other.Dest) {
		p.note(d.text.Dest, fmt.Errorf("%s is where the child of service %s listens (%s): give one of them another address", d.Dest, other.Name, other.text.Dest.From))
	}
	for _, pair := range [][2]draft{{d, other}, {other, d}} {
		child, clients := pair[0], pair[1]
		if p.places.same(clients.Bind, child.Dest) {
			p.note(child.text.Dest, fmt.Errorf("%s is where service %s takes its clients (%s): give the child another address", child.Dest, clients.Name, clients.text.Bind.From))
		}
	}
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
func (p *parser) adminClashes(all []draft, admin Value) {
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
