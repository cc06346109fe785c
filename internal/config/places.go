package config

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// lookupTimeout bounds one question to a name server.
	lookupTimeout = 2 * time.Second
	// lookupsTimeout bounds all those about the same settings. Names that come
	// later count as those of other machines.
	lookupsTimeout = 10 * time.Second
)

// lookup asks for the addresses of a name.
var lookup = net.DefaultResolver.LookupNetIP

// places tells which addresses lead to the same place, and remembers what it has
// asked the system: with many services the same is asked often.
type places struct {
	hosts map[string][]netip.Addr
	files map[string]file
	ours  []netip.Addr  // addresses of this machine, nil before they were asked for
	spent time.Duration // on lookups
}

// file is what a path leads to.
type file struct {
	path string      // with all symbolic links followed
	info os.FileInfo // nil if there is none
}

// SamePlace reports whether connecting to dest would reach a listener on bind,
// whatever the spelling: names, every-address listeners, interface addresses,
// symbolic links. Port 0 is no place. A name that cannot be resolved within
// 2 s counts as another machine.
func SamePlace(bind, dest Addr) bool { return new(places).same(bind, dest) }

// Taken reports whether an address is where one of the services takes its clients,
// or where its child listens.
func Taken(at Addr, services []Service) bool {
	p := new(places)
	return slices.ContainsFunc(services, func(s Service) bool { return p.same(at, s.Bind) || p.same(at, s.Dest) })
}

// check checks what can only be said of bind, dest and ready together.
func (p *places) check(s Service, bindFrom string) error {
	if s.Bind.Network != "" {
		if err := p.checkLoop(s.Bind, s.Dest, bindFrom); err != nil {
			return err
		}
	}
	return p.checkLocal(s.Dest, s.Ready)
}

// checkLoop refuses a dest that is the address on which tiproxy itself
// listens: it would connect to itself until the descriptors are used up.
func (p *places) checkLoop(bind, dest Addr, bindFrom string) error {
	if !p.same(bind, dest) {
		return nil
	}
	right := "give one of them another port"
	if dest.Network == "unix" {
		right = "give one of them another path"
	}
	return fmt.Errorf("%s is where tiproxy itself listens (%s %s), it would connect to itself: %s", dest, bindFrom, bind, right)
}

// checkLocal refuses to wait for a listening socket that cannot be seen: one
// of another machine. A name that cannot be resolved now may well be later.
func (p *places) checkLocal(dest Addr, ready Ready) error {
	if !ready.Listen || dest.Network != "tcp" {
		return nil
	}
	ips := p.addresses(dest.Host)
	if len(ips) == 0 || slices.ContainsFunc(ips, p.isOurs) {
		return nil
	}
	return fmt.Errorf("%s is not on this machine, where --ready listen could see it: write --ready dial", dest)
}

// same is SamePlace.
func (p *places) same(bind, dest Addr) bool {
	if bind.Network != dest.Network || bind.Network == "" {
		return false
	}
	if bind.Network == "unix" {
		return p.sameFile(bind.Path, dest.Path)
	}
	if bind.Port != dest.Port || bind.Port == 0 {
		return false
	}
	if bind.Host != "" && strings.EqualFold(bind.Host, dest.Host) {
		return true
	}
	return p.reaches(p.addresses(bind.Host), p.addresses(dest.Host))
}

// reaches is true when one of the addresses of dest belongs to a listener on
// one of those of bind.
func (p *places) reaches(bind, dest []netip.Addr) bool {
	for _, b := range bind {
		for _, d := range dest {
			switch {
			case sameIP(b, d):
				return true
			case b.IsUnspecified() && (b.Is6() || d.Is4()) && (d.IsUnspecified() || p.isOurs(d)):
				return true
			}
		}
	}
	return false
}

// sameIP compares addresses. A zone tells interfaces apart where an address
// means another machine on each of them, which is so for link-local ones only
// (RFC 4007).
func sameIP(a, b netip.Addr) bool {
	if a.IsLinkLocalUnicast() && a.Zone() != "" && b.Zone() != "" {
		return a == b
	}
	return a.WithZone("") == b.WithZone("")
}

// addresses resolves host. "" is every address of the machine.
func (p *places) addresses(host string) []netip.Addr {
	if host == "" {
		return []netip.Addr{netip.IPv6Unspecified()}
	}
	if known, asked := p.hosts[host]; asked {
		return known
	}
	ips := p.ask(host)
	if p.hosts == nil {
		p.hosts = map[string][]netip.Addr{}
	}
	p.hosts[host] = ips
	return ips
}

// ask resolves a host that was not asked for before.
func (p *places) ask(host string) []netip.Addr {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}
	}
	if p.spent > lookupsTimeout {
		return nil
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	ips, err := lookup(ctx, "ip", host)
	if err != nil {
		ips = nil
	}
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	p.spent += time.Since(began)
	return ips
}

// isOurs is true for addresses of this machine.
func (p *places) isOurs(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	if p.ours == nil {
		p.ours = interfaceAddresses()
	}
	return slices.Contains(p.ours, ip.WithZone(""))
}

// interfaceAddresses are those of the machine's interfaces; not nil.
func interfaceAddresses() []netip.Addr {
	all := []netip.Addr{}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return all
	}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if own, ok := netip.AddrFromSlice(n.IP); ok {
				all = append(all, own.Unmap())
			}
		}
	}
	return all
}

// sameFile compares two paths by what they lead to. Neither has to exist.
func (p *places) sameFile(a, b string) bool {
	fileA, fileB := p.file(a), p.file(b)
	return fileA.path == fileB.path || fileA.info != nil && fileB.info != nil && os.SameFile(fileA.info, fileB.info)
}

// file follows a path.
func (p *places) file(path string) file {
	if known, asked := p.files[path]; asked {
		return known
	}
	f := file{path: resolved(path)}
	if info, err := os.Stat(path); err == nil {
		f.info = info
	}
	if p.files == nil {
		p.files = map[string]file{}
	}
	p.files[path] = f
	return f
}

// near names what an address can have in common with others: two that lead to the
// same place have one of these words in common, if not each two with such a word
// lead there. So that each of many need not be compared with each.
func (p *places) near(a Addr) []string {
	switch {
	case a.Network == "unix":
		f := p.file(a.Path)
		words := []string{"path " + f.path}
		if st, ok := sysOf(f.info); ok {
			words = append(words, fmt.Sprintf("file %d %d", st.Dev, st.Ino))
		}
		return words
	case a.Network == "tcp" && a.Port != 0:
		return []string{fmt.Sprintf("port %d", a.Port)}
	}
	return nil
}

func sysOf(info os.FileInfo) (*syscall.Stat_t, bool) {
	if info == nil {
		return nil, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return st, ok
}

// resolved follows the symbolic links of path, or at least those of its
// directory when path itself does not exist.
func resolved(path string) string {
	if whole, err := filepath.EvalSymlinks(path); err == nil {
		return whole
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(dir, filepath.Base(path))
	}
	return filepath.Clean(path)
}
