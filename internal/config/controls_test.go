package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// comparePrefixes looks into netip's values, which have no exported fields.
var comparePrefixes = cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})

func TestCheck_Controls(t *testing.T) {
	in := text(t)
	in.Allow = []Value{given("allow", "10.0.0.0/8, ::1"), given("allow", "192.168.1.7")}
	in.Deny = []Value{given("deny", "10.6.0.0/16")}
	in.WakeOn, in.WakeRate = given("wake-on", "data"), given("wake-rate", "5/1m")
	in.Quiet, in.QuietPolicy = given("quiet", "10m"), given("quiet-policy", "ignore")
	in.MaxWaiting, in.MaxPerSource = given("max-waiting", "100"), given("max-per-source", "10")
	in.MinUptime = given("min-uptime", "30s")
	in.ProxyProtocol = given("proxy-protocol", "v2")
	in.AcceptProxyProtocol = []Value{given("accept-proxy-protocol", "127.0.0.1")}
	s, err := Check(in)
	if err != nil {
		t.Fatal(err)
	}
	p := netip.MustParsePrefix
	want := Controls{
		Allow: []netip.Prefix{p("10.0.0.0/8"), p("::1/128"), p("192.168.1.7/32")}, Deny: []netip.Prefix{p("10.6.0.0/16")},
		WakeOn: WakeOnData, WakeRate: Rate{5, time.Minute}, Quiet: 10 * time.Minute, QuietPolicy: QuietIgnore,
		MaxWaiting: 100, MaxPerSource: 10, MinUptime: 30 * time.Second,
		ProxyProtocol: ProxyV2, TrustHeader: []netip.Prefix{p("127.0.0.1/32")},
	}
	if diff := cmp.Diff(want, s.Controls, comparePrefixes); diff != "" {
		t.Error(diff)
	}
}

func TestCheck_QuietPolicyNeedsATime(t *testing.T) {
	in := text(t)
	in.QuietPolicy = given("quiet-policy", "close")
	wantError(t, in, "add --quiet, for example --quiet 5m")
	in.Quiet = given("quiet", "0")
	wantError(t, in, "add --quiet")
	in.QuietPolicy = given("quiet-policy", "keep")
	if _, err := Check(in); err != nil {
		t.Error(err)
	}
}

// On a unix socket nobody has an address that could be allowed or counted.
func TestCheck_AddressControlsNeedTCP(t *testing.T) {
	in := text(t)
	in.Bind = given("bind", "unix:/run/x.sock")
	in.Allow, in.MaxPerSource = []Value{given("allow", "::1")}, given("max-per-source", "3")
	wantError(t, in, "--max-per-source: goes by the client's address", "--allow: goes by the client's address")
	in = text(t)
	in.Bind = given("bind", "unix:/run/x.sock")
	in.ProxyProtocol, in.MaxWaiting = given("proxy-protocol", "v1"), given("max-waiting", "3")
	if _, err := Check(in); err != nil {
		t.Error(err)
	}
}

func TestParsePrefixes_SaysWhatWouldBeRight(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "has an empty place",
		"10.0.0.0/8,":            "has an empty place",
		"10.0.0.7/8":             "write 10.0.0.0/8 for the network, or 10.0.0.7 for the address alone",
		"10.0.0.0/255.0.0.0":     "write the mask as a number of bits, such as 10.0.0.0/24",
		"10.0.0.0/33":            "is not a network",
		"x\x9b/255.0.0.0":        `"x\x9b/255.0.0.0" is not a network`,
		"fe80::1%eth0":           "a network has no zone: write fe80::1",
		"::ffff:10.0.0.0/104":    "write 10.0.0.0/8",
		"localhost":              "write 127.0.0.0/8,::1",
		"all":                    "write 0.0.0.0/0,::/0",
		"10.0.0.0/8;11.0.0.0/8":  "is not a network",
		"10.0.0.0/8 11.0.0.0/8":  "is not a network",
		"example.com":            "is not a network: write for example",
		"2001:db8::1/32,1.2.3.4": "write 2001:db8::/32 for the network",
	} {
		if got, err := ParsePrefixes(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v, %v; want %q", in, got, err, want)
		}
	}
}

func TestParseRate(t *testing.T) {
	if got, err := ParseRate("20/2s"); err != nil || got != (Rate{20, 2 * time.Second}) {
		t.Errorf("20/2s gives %v, %v", got, err)
	}
	for in, want := range map[string]string{
		"20":    "write N/DURATION, for example 5/1m",
		"":      "write N/DURATION",
		"5/m":   "write 5/1m",
		"0/1m":  "0 is too small",
		"x/1m":  `"x" is not a whole number`,
		"5/60":  "write 60s",
		"5/0":   "write for example 5/1m",
		"5/-1s": "is negative",
		"5/":    "is empty",
	} {
		if got, err := ParseRate(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v, %v; want %q", in, got, err, want)
		}
	}
}

// Whatever is taken is a network that a comparison can rely on.
func FuzzParsePrefixes(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8,::1", "0.0.0.0/0", "::ffff:1.2.3.4", "fe80::1%e/64", ",", "1.2.3.4/00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		all, err := ParsePrefixes(s)
		if err != nil {
			oneLine(t, err)
			return
		}
		for _, p := range all {
			again, err := ParsePrefixes(p.String())
			if !p.IsValid() || p != p.Masked() || err != nil || again[0] != p {
				t.Errorf("%q gives %v, which reads as %v, %v", s, p, again, err)
			}
		}
	})
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"5/1m", "1/1ns", "999999999999999999999/1s", "5/", "/1s", "5/1m/1m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRate(s)
		if err != nil {
			oneLine(t, err)
			return
		}
		if again, err := ParseRate(r.String()); r.N < 1 || r.Per <= 0 || again != r {
			t.Errorf("%q gives %v, which reads as %v, %v", s, r, again, err)
		}
	})
}
