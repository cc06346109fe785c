package config

import (
	"fmt"
	"strings"
	"time"
)

// Group is a budget that several services share.
type Group struct {
	Name     string
	Children int              // services awake at once; 0 = any number
	Amounts  map[string]int64 // what there is of resources that people named, at least 1 each
	Wait     time.Duration    // how long a client may wait for room; 0 = as long as it takes
}

// DefaultGroupWait is how long a client may wait for room in a group.
const DefaultGroupWait = "5m"

// Together is what a service shares with others. Only a file can say it: the
// names in it are those of the file.
type Together struct {
	Group string           // whose budget it shares, "" = nobody's
	Uses  map[string]int64 // what it takes of the group's amounts while it is awake
	Wake  []string         // services woken along
	Needs []string         // services started first, in this order, and kept awake as long
}

// together reads it. Whether the names are any is known to who has the file.
func (c *checker) together(t Text, name string) (g Together) {
	g.Group = t.Group.Text
	for _, v := range t.Uses {
		resource, amount, found := strings.Cut(v.Text, "=")
		if !found {
			c.report(v, fmt.Errorf("%q has no amount: write for example memory: 8GiB", excerpt(v.Text)))
			continue
		}
		q, err := ParseAmount(amount)
		c.report(v, err)
		if g.Uses == nil {
			g.Uses = map[string]int64{}
		}
		if _, twice := g.Uses[resource]; twice {
			c.report(v, fmt.Errorf("%s is there twice: leave one of them out", resource))
		}
		g.Uses[resource] = q.N
	}
	if !t.Group.Given || t.Group.Text == "" {
		c.needGroup(t)
	}
	g.Wake, g.Needs = c.others(t.Wake, name), c.others(t.Needs, name)
	return g
}

// needGroup refuses an amount of nobody's.
func (c *checker) needGroup(t Text) {
	for _, v := range t.Uses {
		if !v.shared {
			c.report(v, fmt.Errorf("is taken of no group: add group: NAME, or leave uses out"))
			return
		}
	}
}

// others reads names of other services.
func (c *checker) others(list []Value, name string) (all []string) {
	seen := map[string]bool{}
	for _, v := range list {
		switch {
		case v.broken:
		case v.Text == name && v.shared: // the default of all holds for all others
		case v.Text == name:
			c.report(v, fmt.Errorf("%s is the service itself: leave it out", name))
		case seen[v.Text]:
			c.report(v, fmt.Errorf("%q is there twice: leave one of them out", excerpt(v.Text)))
		default:
			seen[v.Text] = true
			all = append(all, v.Text)
		}
	}
	return all
}
