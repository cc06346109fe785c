package probe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// Dest is where a child takes connections.
type Dest struct {
	Network string // "tcp" or "unix"
	Host    string // tcp: an IP address or a name
	Port    uint16 // tcp
	Path    string // unix
}

// String returns d as it is written on the command line: "127.0.0.1:3000",
// "[::1]:3000", "unix:/run/app.sock".
func (d Dest) String() string {
	if d.Network == "unix" {
		return "unix:" + d.Path
	}
	return net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port)))
}

// resolve returns the addresses of a tcp destination, in the resolver's order
// and each once. The unspecified address stands for this machine's loopback
// address, which is where connect(2) leads from it on every system we know.
func (d Dest) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", d.Host)
	if err != nil {
		return nil, fmt.Errorf("find the address of dest %s: %w", d, err)
	}
	var all []netip.AddrPort
	for _, ip := range ips {
		ap := netip.AddrPortFrom(reachable(ip.Unmap()), d.Port)
		if !slices.Contains(all, ap) {
			all = append(all, ap)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("find the address of dest %s: the name has none", d)
	}
	return all, nil
}

// reachable replaces the unspecified address by the one it reaches.
func reachable(ip netip.Addr) netip.Addr {
	switch {
	case !ip.IsUnspecified():
		return ip
	case ip.Is4():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	default:
		return netip.IPv6Loopback()
	}
}

// onThisMachine returns those of all that belong to this machine: loopback
// addresses and addresses of its interfaces.
func onThisMachine(all []netip.AddrPort) ([]netip.AddrPort, error) {
	var local []netip.AddrPort
	var ours []net.Addr
	for _, ap := range all {
		if ap.Addr().IsLoopback() {
			local = append(local, ap)
			continue
		}
		if ours == nil {
			var err error
			if ours, err = net.InterfaceAddrs(); err != nil {
				return nil, fmt.Errorf("list this machine's addresses: %w", err)
			}
		}
		if slices.ContainsFunc(ours, sameAddr(ap.Addr())) {
			local = append(local, ap)
		}
	}
	return local, nil
}

// sameAddr returns a function that tells whether an interface's address is ip.
func sameAddr(ip netip.Addr) func(net.Addr) bool {
	return func(a net.Addr) bool {
		prefix, ok := a.(*net.IPNet)
		return ok && prefix.IP.Equal(net.IP(ip.AsSlice()))
	}
}

// resolveLocal is resolve for who reads this machine's tables: it leaves out
// addresses of other machines. A socket on the wildcard address would seem to
// serve those too, and clients would be sent to a stranger's machine.
func (d Dest) resolveLocal(ctx context.Context) ([]netip.AddrPort, error) {
	all, err := d.resolve(ctx)
	if err != nil {
		return nil, err
	}
	local, err := onThisMachine(all)
	if err != nil {
		return nil, err
	}
	if len(local) == 0 {
		return nil, fmt.Errorf("dest %s (%s) is not an address of this machine, so its listening sockets cannot be seen: use --ready dial",
			d, all[0].Addr())
	}
	return local, nil
}
