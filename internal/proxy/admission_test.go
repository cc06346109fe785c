package proxy

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func TestAdmission(t *testing.T) {
	a := Admission{Allow: prefixes("10.0.0.0/8", "2001:db8::/32"), Deny: prefixes("10.6.0.0/16")}
	for ip, want := range map[string]verdict{
		"10.1.2.3":         "",
		"10.6.2.3":         denied,
		"11.0.0.1":         notAllowed,
		"2001:db8::1":      "",
		"2001:db9::1":      notAllowed,
		"::1":              notAllowed,
		"::ffff:10.1.2.3":  "",
		"::ffff:10.6.0.1":  denied,
		"::ffff:127.0.0.1": notAllowed,
	} {
		addr := addrOf(net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 1)))
		if got := a.rejects(addr); got != want {
			t.Errorf("%s: %q, want %q", ip, got, want)
		}
	}
	everybodyBut := Admission{Deny: prefixes("10.0.0.0/8")}
	if got := everybodyBut.rejects(netip.MustParseAddr("192.0.2.1")); got != "" {
		t.Errorf("without --allow everybody is allowed, but: %q", got)
	}
	if got := a.rejects(addrOf(&net.UnixAddr{})); got != "" {
		t.Errorf("clients of a unix socket have no address to go by, but: %q", got)
	}
}

// A source is an address, or what one customer has of IPv6.
func TestSources(t *testing.T) {
	var s sources
	ip := netip.MustParseAddr
	for _, step := range []struct {
		ip   string
		want bool
	}{
		{"10.0.0.1", true}, {"10.0.0.1", true}, {"10.0.0.1", false}, {"10.0.0.2", true},
		{"2001:db8::1", true}, {"2001:db8::2", true}, {"2001:db8::3", false}, {"2001:db8:0:1::1", true},
	} {
		if _, got := s.enter(ip(step.ip), 2); got != step.want {
			t.Errorf("%s enters: %v, want %v", step.ip, got, step.want)
		}
	}
	s.leave(ip("10.0.0.1"))
	if counted, ok := s.enter(ip("10.0.0.1"), 2); !counted || !ok {
		t.Error("a place that was left is not free")
	}
	for _, gone := range []string{"10.0.0.1", "10.0.0.1", "10.0.0.2", "2001:db8::9", "2001:db8::1", "2001:db8:0:1::1"} {
		s.leave(ip(gone))
	}
	if len(s.open) != 0 {
		t.Errorf("remembered although all have left: %v", s.open)
	}
}

func TestComplaints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c complaints
		logs := new(logLines)
		about := func(ip string) { c.about(logs.logger(), netip.MustParseAddr(ip), "client refused", "reason", "x") }
		for range 1000 {
			about("10.0.0.1")
			about("2001:db8::1")
			about("2001:db8::2")
		}
		if n := logs.count("client refused"); n != 2 {
			t.Errorf("%d lines, want one per source:\n%s", n, logs)
		}
		<-time.After(complaintPause)
		about("10.0.0.1")
		if !strings.Contains(logs.String(), `source=10.0.0.1 reason=x before="999 more"`) {
			t.Errorf("the next minute's line does not say what was kept back:\n%s", logs)
		}
	})
}

// A flood from everywhere costs bounded memory and a bounded log.
func TestComplaintsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c complaints
		logs := new(logLines)
		ip := netip.MustParseAddr("10.0.0.0")
		for range 3 * complaintsMost {
			c.about(logs.logger(), ip, "client refused")
			ip = ip.Next()
		}
		if lines, most := logs.count("client refused"), complaintsMost+1; lines != most || len(c.now) > most {
			t.Errorf("%d lines and %d sources, want %d", lines, len(c.now), most)
		}
		<-time.After(complaintPause)
		c.about(logs.logger(), ip, "client refused")
		if len(c.now) != 1 {
			t.Errorf("%d sources are remembered that are of no use any more", len(c.now))
		}
	})
}

func TestWakeSource(t *testing.T) {
	for ip, want := range map[string]string{"10.1.2.3": "10.1.2.0/24", "2001:db8:1:2:3::4": "2001:db8:1:2::/64"} {
		if got := wakeSource(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s belongs to %s, want %s", ip, got, want)
		}
	}
	if got := wakeSource(netip.Addr{}); got != "" {
		t.Errorf("a client without address belongs to %q", got)
	}
}
