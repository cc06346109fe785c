package config

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// budget is a group as far as it was read, with the units of its amounts.
type budget struct {
	Group
	amounts map[string]Quantity
	broken  bool // something of it was wrong, so nothing can be said of what fits
}

// groups reads them all.
func (p *parser) groups(n *yaml.Node) (all []Group) {
	if n == nil {
		return nil
	}
	m, ok := p.mapping(n, "groups", "NAME: {children: 1} or another budget for each group, or leave it out")
	if !ok {
		p.groupsBroken = true
		return nil
	}
	if len(m.all) > groupsMost {
		p.wrong(n, "groups", "has %d groups: write at most %d", len(m.all), groupsMost)
		m.all = m.all[:groupsMost]
	}
	for _, e := range m.all {
		if err := checkName(e.key.Value); err != nil {
			p.wrong(e.key, "groups", "%w", err)
		}
		if p.tooMuch() {
			break
		}
		before := len(p.problems)
		b := p.group(e.key, e.value)
		b.broken = len(p.problems) > before
		p.budgets = append(p.budgets, b)
		all = append(all, b.Group)
	}
	return all
}

// group reads one.
func (p *parser) group(key, n *yaml.Node) budget {
	what := "groups." + excerpt(key.Value)
	b := budget{Group: Group{Name: key.Value}, amounts: map[string]Quantity{}}
	m, ok := p.mapping(n, what, "children: 1, or an amount such as memory: 16GiB")
	if !ok {
		return b
	}
	wait := Value{Text: DefaultGroupWait}
	if most := amountsMost + len(names(groupKey)); len(m.all) > most {
		p.wrong(n, what, "has %d keys: write at most %d", len(m.all), most)
		m.all = m.all[:most]
	}
	for _, e := range m.all {
		at := slot{what: what + "." + excerpt(e.key.Value)}
		v := p.scalar(e.value, at)
		switch e.key.Value {
		case "wait":
			wait = v
		case "children":
			n, err := parseCount(v.Text)
			p.unlessBroken(v, err)
			b.Children = n
		default:
			p.amount(&b, e.key, v)
		}
	}
	d, err := ParseDuration(wait.Text)
	p.unlessBroken(wait, err)
	b.Wait = d
	if b.Children == 0 && len(b.amounts) == 0 {
		p.wrong(n, what, "has no limit: write children: 1, or an amount such as memory: 16GiB")
	}
	return b
}

func (p *parser) unlessBroken(v Value, err error) {
	if err != nil && !v.broken {
		p.note(v, err)
	}
}

// amount reads how much there is of something that people named.
func (p *parser) amount(b *budget, key *yaml.Node, v Value) {
	if near := p.closest(key.Value, names(groupKey)); near != "" {
		p.wrong(key, "", "%q looks like %s: write that, or give the resource another name", "groups."+b.Name+"."+key.Value, near)
		return
	}
	if err := checkName(key.Value); err != nil {
		p.wrong(key, "groups."+excerpt(b.Name), "%w", err)
		return
	}
	q, err := ParseAmount(v.Text)
	if err == nil && q.N == 0 {
		err = fmt.Errorf("%q is nothing, so no service could ever use it: write for example 16GiB, or leave it out", v.Text)
	}
	p.unlessBroken(v, err)
	b.amounts[key.Value] = q
	if b.Amounts == nil {
		b.Amounts = map[string]int64{}
	}
	b.Amounts[key.Value] = q.N
}

// relations checks what services say of each other and of groups.
func (p *parser) relations(all []*draft) {
	byName := map[string]*draft{}
	for _, d := range all {
		byName[d.Name] = d
	}
	budgets := map[string]budget{}
	for _, b := range p.budgets {
		budgets[b.Name] = b
	}
	known := slices.Sorted(maps.Keys(byName))
	for _, d := range all {
		p.usesOf(d, budgets)
		for _, v := range d.others() {
			if byName[v.Text] == nil && !v.broken {
				p.note(v, p.unknownName(v.Text, "service", known))
			}
		}
	}
	w := walker{p: p, byName: byName, all: all, state: map[string]int{}, closures: map[string]*big.Int{}}
	for i, d := range all {
		w.closures[d.Name] = new(big.Int).SetBit(new(big.Int), i, 1)
	}
	for _, d := range all {
		w.visit(d.Name)
	}
	if w.circle || len(budgets) == 0 {
		return
	}
	for _, d := range all {
		p.fits(d, w.closure(d.Name), budgets)
	}
}

// others are the names of other services that one gives.
func (d *draft) others() []Value { return slices.Concat(d.text.Needs, d.text.Wake) }

func (p *parser) unknownName(name, kind string, known []string) error {
	const most = 10
	near := p.closest(name, known)
	switch {
	case near != "":
		return fmt.Errorf("%q is no %s of this file: did you mean %s?", excerpt(name), kind, near)
	case len(known) == 0:
		return fmt.Errorf("%q is no %s of this file, which has none", excerpt(name), kind)
	case len(known) > most:
		return fmt.Errorf("%q is no %s of this file: there are %s …", excerpt(name), kind, strings.Join(known[:most], ", "))
	}
	return fmt.Errorf("%q is no %s of this file: there are %s", excerpt(name), kind, strings.Join(known, ", "))
}

// usesOf checks a service's part of its group's budget.
func (p *parser) usesOf(d *draft, budgets map[string]budget) {
	if d.Group == "" || d.text.Group.broken || p.groupsBroken {
		return
	}
	b, known := budgets[d.Group]
	if !known {
		err := p.unknownName(d.Group, "group", slices.Sorted(maps.Keys(budgets)))
		if len(budgets) == 0 {
			err = fmt.Errorf("%q is no group of this file, which has none: write groups: {%s: {children: 1}}", excerpt(d.Group), excerpt(d.Group))
		}
		p.note(d.text.Group, err)
		return
	}
	for _, v := range d.text.Uses {
		resource, amount, _ := strings.Cut(v.Text, "=")
		q, err := ParseAmount(amount)
		if err != nil || v.broken {
			continue // told
		}
		p.usesOne(b, v, resource, q)
	}
}

func (p *parser) usesOne(b budget, v Value, resource string, q Quantity) {
	has, known := b.amounts[resource]
	switch {
	case b.broken:
	case !known:
		p.note(v, p.unknownName(resource, "amount of group "+b.Name, slices.Sorted(maps.Keys(b.amounts))))
	case q.N != 0 && q.Bytes != has.Bytes && has.Bytes:
		p.note(v, fmt.Errorf("%d has no unit, but group %s has %s of %s: write for example %dGiB", q.N, b.Name, has, resource, max(1, min(q.N, 1024))))
	case q.N != 0 && q.Bytes != has.Bytes:
		p.note(v, fmt.Errorf("%s has a unit, but group %s has %s of %s: write both with one, or both without", q, b.Name, has, resource))
	case q.N > has.N:
		p.note(v, fmt.Errorf("%s is more than the %s that group %s has, so it could never start: write less here, or more there", q, has, b.Name))
	}
}

// fits checks that a service can be awake together with all that it wakes and
// needs.
func (p *parser) fits(d *draft, together []*draft, budgets map[string]budget) {
	if len(together) < 2 {
		return
	}
	members := map[string][]*draft{}
	for _, one := range together {
		members[one.Group] = append(members[one.Group], one)
	}
	for _, group := range slices.Sorted(maps.Keys(members)) {
		b, known := budgets[group]
		if !known || b.broken || len(members[group]) < 2 {
			continue
		}
		if over := b.over(members[group]); over != "" {
			p.note(d.others()[0], fmt.Errorf("%s have to be awake at once, but %s: they could never start together", listed(members[group]), over))
		}
	}
}

// over says what of a budget is exceeded, "" if nothing is.
func (b budget) over(members []*draft) string {
	if b.Children > 0 && len(members) > b.Children {
		return fmt.Sprintf("group %s has room for %d", b.Name, b.Children)
	}
	for _, resource := range slices.Sorted(maps.Keys(b.amounts)) {
		has, sum := b.amounts[resource], Quantity{Bytes: b.amounts[resource].Bytes}
		alone := false // one is too much by itself, which was told
		for _, d := range members {
			uses := d.Uses[resource]
			alone = alone || uses > has.N
			sum.N += min(uses, math.MaxInt64-sum.N)
		}
		if sum.N > has.N && !alone {
			return fmt.Sprintf("use %s of %s together, of which group %s has %s", sum, resource, b.Name, has)
		}
	}
	return ""
}

// listed are services in the order of their names.
func listed(all []*draft) string {
	const most = 10
	all = slices.SortedFunc(slices.Values(all), func(a, b *draft) int { return cmp.Compare(a.Name, b.Name) })
	var words []string
	for i, d := range all {
		if i == most {
			words = append(words, "…")
			break
		}
		words = append(words, d.Name)
	}
	last := len(words) - 1
	return "services " + strings.Join(words[:last], ", ") + " and " + words[last]
}

// walker follows what services wake and need.
type walker struct {
	p        *parser
	byName   map[string]*draft
	all      []*draft
	state    map[string]int      // 1 = on the way, 2 = done
	closures map[string]*big.Int // of those that are done, as bits of their places in all
	way      []string
	circle   bool // there is one, and closures are not whole
}

// visit goes on from a service and tells of a way that leads back.
func (w *walker) visit(name string) {
	if w.state[name] != 0 {
		return
	}
	w.state[name] = 1
	w.way = append(w.way, name)
	told := false
	for _, v := range w.byName[name].others() {
		switch {
		case w.byName[v.Text] == nil || v.Text == name: // told, or a default of all
		case w.state[v.Text] != 1:
			w.visit(v.Text)
			w.closures[name].Or(w.closures[name], w.closures[v.Text])
		case !told:
			told, w.circle = true, true
			circle := append(slices.Clone(w.way[slices.Index(w.way, v.Text):]), v.Text)
			w.p.note(v, fmt.Errorf("%s leads back to itself (%s): leave one of them out", excerpt(v.Text), excerpt(strings.Join(circle, " → "))))
		}
	}
	w.way = w.way[:len(w.way)-1]
	w.state[name] = 2
}

// closure is a service with all that is awake because of it.
func (w *walker) closure(name string) (all []*draft) {
	bits := w.closures[name]
	for i := int(bits.TrailingZeroBits()); i < bits.BitLen(); i++ {
		if bits.Bit(i) == 1 {
			all = append(all, w.all[i])
		}
	}
	return all
}
