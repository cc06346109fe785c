package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Controls are the settings that a hostile or careless world makes necessary.
// Each zero value means that nothing is controlled.
type Controls struct {
	Allow []netip.Prefix // who may connect; empty = everybody
	Deny  []netip.Prefix // who may not, also if allowed

	WakeOn   WakeOn // what a client must do to start the child
	WakeRate Rate   // how often one source network may start it

	Quiet       time.Duration // without a byte for this long a connection is quiet; 0 = never
	QuietPolicy QuietPolicy   // what becomes of a quiet connection

	MaxWaiting   int           // connections without a child at once; 0 = no limit of its own
	MaxPerSource int           // connections of one source at once; 0 = no limit
	MinUptime    time.Duration // a ready child is not stopped for being idle before

	ProxyProtocol ProxyProtocol  // the header that tells the child who its client is
	TrustHeader   []netip.Prefix // the peers that begin with such a header, which is believed
}

// WakeOn is what a client must have done to be connected to the child.
type WakeOn string

// What wakes the child.
const (
	WakeOnConnect WakeOn = "connect" // a connection
	WakeOnData    WakeOn = "data"    // its first byte
)

// QuietPolicy is what becomes of a connection that is quiet.
type QuietPolicy string

// The policies.
const (
	QuietKeep   QuietPolicy = "keep"   // nothing: it keeps the child awake
	QuietClose  QuietPolicy = "close"  // it is ended
	QuietIgnore QuietPolicy = "ignore" // it stays and does not keep the child awake
)

// ProxyProtocol is a version of the PROXY protocol's header; see
// https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt.
type ProxyProtocol string

// The versions. The zero value stands for no header.
const (
	ProxyNone ProxyProtocol = ""
	ProxyV1   ProxyProtocol = "v1"
	ProxyV2   ProxyProtocol = "v2"
)

// Rate is a number of events in a time. The zero Rate means no limit.
type Rate struct {
	N   int
	Per time.Duration
}

// String writes r as people do: "5/1m0s".
func (r Rate) String() string { return fmt.Sprintf("%d/%v", r.N, r.Per) }

// controls checks what t says of the controls. bind is "" where it is wrong.
func (c *checker) controls(t Text, bind Addr) Controls {
	out := Controls{
		Allow:         prefixes(c, t.Allow),
		Deny:          prefixes(c, t.Deny),
		WakeOn:        parsed(c, t.WakeOn, DefaultWakeOn, oneOf(WakeOnConnect, WakeOnData)),
		WakeRate:      optional(c, t.WakeRate, ParseRate),
		Quiet:         optional(c, t.Quiet, ParseDuration),
		QuietPolicy:   parsed(c, t.QuietPolicy, DefaultQuietPolicy, oneOf(QuietKeep, QuietClose, QuietIgnore)),
		MaxWaiting:    optional(c, t.MaxWaiting, parseCount),
		MaxPerSource:  optional(c, t.MaxPerSource, parseCount),
		MinUptime:     optional(c, t.MinUptime, ParseDuration),
		ProxyProtocol: optional(c, t.ProxyProtocol, oneOf(ProxyV1, ProxyV2)),
		TrustHeader:   prefixes(c, t.AcceptProxyProtocol),
	}
	_, wrong := ParseDuration(t.Quiet.Text)
	never := out.Quiet == 0 && (wrong == nil || !t.Quiet.Given) // what is wrong was told above
	if t.QuietPolicy.Given && !t.QuietPolicy.shared && never && (out.QuietPolicy == QuietClose || out.QuietPolicy == QuietIgnore) {
		c.report(t.QuietPolicy, fmt.Errorf("is %s, but nothing says when a connection is quiet: add --quiet, for example --quiet 5m", out.QuietPolicy))
	}
	if bind.Network == "unix" {
		c.needAddresses(t)
	}
	return out
}

// needAddresses refuses what goes by the clients' addresses, which they do not
// have on a unix socket.
func (c *checker) needAddresses(t Text) {
	byAddress := []Value{t.WakeRate, t.MaxPerSource}
	for _, list := range [][]Value{t.Allow, t.Deny, t.AcceptProxyProtocol} {
		byAddress = append(byAddress, list...)
	}
	for _, v := range byAddress {
		if v.Given {
			c.report(v, fmt.Errorf("goes by the client's address, but clients of a unix socket have none (%s %s): leave it out, the socket's permissions say who may connect", t.Bind.From, t.Bind.Text))
		}
	}
}

// optional parses v if it was given.
func optional[T any](c *checker, v Value, parse func(string) (T, error)) T {
	if !v.Given {
		var none T
		return none
	}
	return parsed(c, v, "", parse)
}

// prefixes parses lists of networks, which add up.
func prefixes(c *checker, list []Value) []netip.Prefix {
	var all []netip.Prefix
	for _, v := range list {
		some, err := ParsePrefixes(v.Text)
		c.report(v, err)
		all = append(all, some...)
	}
	return all
}

// oneOf returns a parser that takes one of a few words.
func oneOf[T ~string](words ...T) func(string) (T, error) {
	return func(s string) (T, error) {
		var names []string
		for _, w := range words {
			if T(s) == w {
				return w, nil
			}
			names = append(names, string(w))
		}
		last := len(names) - 1
		return "", fmt.Errorf("%q is not known: write %s or %s", s, strings.Join(names[:last], ", "), names[last])
	}
}

// parseCount reads a number of at least 1.
func parseCount(s string) (int, error) {
	n, err := strconv.Atoi(s)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is not a whole number: write for example 100", s)
	case n < 1:
		return 0, fmt.Errorf("%d is too small: write 1 or more, or leave it out for no limit", n)
	}
	return n, nil
}

// ParseRate reads N/DURATION, such as 5/1m.
func ParseRate(s string) (Rate, error) {
	count, per, found := strings.Cut(s, "/")
	if !found {
		return Rate{}, fmt.Errorf("%q is not a rate: write N/DURATION, for example 5/1m", s)
	}
	n, err := parseCount(count)
	if err != nil {
		return Rate{}, fmt.Errorf("%q: %w", s, err)
	}
	if _, err := time.ParseDuration("1" + per); err == nil && strings.Trim(per, "0123456789.") == per {
		return Rate{}, fmt.Errorf("%q: %q has no number: write %d/1%s", s, per, n, per)
	}
	d, err := ParseDuration(per)
	switch {
	case err != nil:
		return Rate{}, fmt.Errorf("%q: %w", s, err)
	case d == 0:
		return Rate{}, fmt.Errorf("%q: no time at all: write for example %d/1m", s, n)
	}
	return Rate{N: n, Per: d}, nil
}

// ParsePrefixes reads networks in CIDR notation, separated by commas. An
// address alone is a network of one.
func ParsePrefixes(s string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for part := range strings.SplitSeq(s, ",") {
		p, err := parsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, errors.New("has an empty place in its list: write networks with commas between them, such as 10.0.0.0/8,::1")
	}
	if ip, err := netip.ParseAddr(s); err == nil {
		if ip.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q: a network has no zone: write %s", s, ip.WithZone(""))
		}
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, explainPrefix(s)
	case p.Addr().Is4In6() && p.Bits() >= 96:
		return netip.Prefix{}, fmt.Errorf("%q: write %s", s, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96))
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has bits behind its mask: write %s for the network, or %s for the address alone", s, p.Masked(), p.Addr())
	}
	return p, nil
}

// explainPrefix says what is wrong with a network that could not be read.
func explainPrefix(s string) error {
	switch host, bits, found := strings.Cut(s, "/"); {
	case strings.EqualFold(s, "all"), strings.EqualFold(s, "any"), s == "*":
		return fmt.Errorf("%q: for everybody write 0.0.0.0/0,::/0", s)
	case strings.EqualFold(s, "localhost"):
		return fmt.Errorf("%q is a name: write 127.0.0.0/8,::1", s)
	case found && isIPv4(host) && isIPv4(bits):
		return fmt.Errorf("%q: write the mask as a number of bits, such as %s/24", s, host)
	}
	return fmt.Errorf("%q is not a network: write for example 10.0.0.0/8, 192.168.1.7 or 2001:db8::/32", s)
}

// isIPv4 is true for addresses, and for masks such as 255.255.255.0.
func isIPv4(s string) bool {
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.Is4()
}
