package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxUnixPath is the longest path of a unix socket: sun_path holds 108 bytes
// on Linux with the final NUL, see unix(7). Other systems hold 104.
const maxUnixPath = 107

// Addr is the address of a TCP port or of a unix socket.
type Addr struct {
	Network string // "tcp" or "unix"
	Host    string // tcp: an IP without brackets or a name; "" = every address of the machine
	Port    uint16 // tcp
	Path    string // unix: absolute
}

// String writes a as people do: what ParseBind reads.
func (a Addr) String() string {
	switch a.Network {
	case "":
		return ""
	case "unix":
		return "unix:" + a.Path
	}
	return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
}

// Dial returns the address in the form that package net takes.
func (a Addr) Dial() string {
	if a.Network == "unix" {
		return a.Path
	}
	return a.String()
}

// ParseBind reads an address to listen on: host:port, :port, [v6]:port or
// unix:/path. Port 0 means any free one.
func ParseBind(s string) (Addr, error) {
	return parseAddr(s, "127.0.0.1:4000")
}

// ParseDest reads an address to connect to: host:port, [v6]:port or
// unix:/path. Unlike for ParseBind it has to be an address of one place.
func ParseDest(s string) (Addr, error) {
	a, err := parseAddr(s, "127.0.0.1:3000")
	if err != nil || a.Network == "unix" {
		return a, err
	}
	ip, ipErr := netip.ParseAddr(a.Host)
	switch anywhere := ipErr == nil && ip.Unmap().IsUnspecified(); {
	case a.Port == 0:
		return Addr{}, fmt.Errorf("%q: port 0 is no place to connect to: write the port on which the child listens", s)
	case a.Host == "":
		return Addr{}, fmt.Errorf("%q has no host: write 127.0.0.1:%d", s, a.Port)
	case anywhere && ip.Is4():
		return Addr{}, fmt.Errorf("%q is an address to listen on, not to connect to: write 127.0.0.1:%d", s, a.Port)
	case anywhere:
		return Addr{}, fmt.Errorf("%q is an address to listen on, not to connect to: write 127.0.0.1:%d or [::1]:%d", s, a.Port, a.Port)
	}
	return a, nil
}

func parseAddr(s, example string) (Addr, error) {
	if s == "" {
		return Addr{}, fmt.Errorf("is empty: write for example %s", example)
	}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return parseUnix(s, path)
	}
	if strings.ContainsFunc(s, isUnprintable) {
		return Addr{}, fmt.Errorf("%q has blanks or control characters in it: write for example %s", s, example)
	}
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		rest, _, _ = strings.Cut(rest, "/")
		return Addr{}, fmt.Errorf("%q: an address has no %s:// in front: write %s", s, scheme, rest)
	}
	if strings.Contains(s, "/") {
		if strings.HasPrefix(s, "/") {
			return Addr{}, fmt.Errorf("%q looks like the path of a socket: write unix:%s", s, s)
		}
		return Addr{}, fmt.Errorf("%q is not an address: write for example %s or unix:/path", s, example)
	}
	return parseTCP(s, example)
}

func parseTCP(s, example string) (Addr, error) {
	host, port, err := splitHostPort(s, example)
	if err != nil {
		return Addr{}, err
	}
	n, err := parsePort(s, port)
	if err != nil {
		return Addr{}, err
	}
	if err := checkHost(s, host); err != nil {
		return Addr{}, err
	}
	return Addr{Network: "tcp", Host: host, Port: n}, nil
}

// splitHostPort cuts s at its last colon. Brackets are required around IPv6
// and around nothing else.
func splitHostPort(s, example string) (host, port string, err error) {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Is6() {
		return "", "", fmt.Errorf("%q: write IPv6 in brackets and with a port: [%s]:PORT", s, s)
	}
	i := strings.LastIndexByte(s, ':')
	if strings.HasSuffix(s, "]") || i < 0 {
		if s != "" && strings.Trim(s, "0123456789") == "" {
			return "", "", fmt.Errorf("%q is only a port: write 127.0.0.1:%s", s, s)
		}
		return "", "", fmt.Errorf("%q has no port: write for example %s:%s", s, s, example[strings.LastIndexByte(example, ':')+1:])
	}
	host, port = s[:i], s[i+1:]
	inner, opened := strings.CutPrefix(host, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	switch {
	case opened != closed:
		return "", "", fmt.Errorf("%q has one bracket without the other: write [ADDRESS]:%s", s, port)
	case !opened && strings.Contains(host, ":"):
		return "", "", fmt.Errorf("%q: write IPv6 in brackets: [%s]:%s", s, host, port)
	case opened:
		if ip, err := netip.ParseAddr(inner); err != nil || !ip.Is6() {
			return "", "", fmt.Errorf("%q has no IPv6 address between its brackets: write for example [::1]:%s", s, port)
		}
	}
	return inner, port, nil
}

func parsePort(s, port string) (uint16, error) {
	if port == "" {
		return 0, fmt.Errorf("%q has no port after the colon: write for example %s3000", s, s)
	}
	if strings.Trim(port, "0123456789") != "" {
		return 0, fmt.Errorf("%q: %q is not a port number: write for example 3000", s, port)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q: port %s is too large: write one up to 65535", s, port)
	}
	return uint16(n), nil
}

// checkHost refuses what no resolver should be asked for. Names that end in
// digits only would be taken for odd spellings of IPv4 by some resolvers.
func checkHost(s, host string) error {
	if host == "" {
		return nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if host == "*" {
		return fmt.Errorf("%q: for every address of this machine write %s", s, strings.TrimPrefix(s, "*"))
	}
	last := host[strings.LastIndexByte(strings.TrimSuffix(host, "."), '.')+1:]
	if strings.Trim(last, "0123456789.") == "" {
		return fmt.Errorf("%q: %q is not an IPv4 address: write four numbers up to 255, such as 127.0.0.1", s, host)
	}
	if i := strings.IndexFunc(host, isNoHostRune); i >= 0 {
		return fmt.Errorf("%q: %q is not a host name: write for example localhost", s, host)
	}
	if len(host) > 253 || strings.HasPrefix(host, ".") || strings.Contains(host, "..") {
		return fmt.Errorf("%q: %q is not a host name: write for example localhost", s, host)
	}
	return nil
}

func parseUnix(s, path string) (Addr, error) {
	switch {
	case path == "":
		return Addr{}, errors.New(`"unix:" has no path: write for example unix:/run/tiproxy.sock`)
	case path[0] == '@' || path[0] == 0:
		return Addr{}, fmt.Errorf("%q: abstract sockets are not supported, anybody may take their names: write unix:/path", s)
	case hasNUL(path):
		return Addr{}, fmt.Errorf("%q contains a NUL byte: write for example unix:/run/tiproxy.sock", s)
	case path[0] != '/':
		return Addr{}, fmt.Errorf("%q is not a whole path: write one that begins with /, such as unix:/run/tiproxy.sock", s)
	case isDirPath(path):
		return Addr{}, fmt.Errorf("%q is the path of a directory: a socket needs a file name, such as unix:/run/tiproxy.sock", s)
	}
	path = tidyPath(path)
	if len(path) > maxUnixPath {
		return Addr{}, fmt.Errorf("the path is %d bytes long, sockets take at most %d: write a shorter one", len(path), maxUnixPath)
	}
	return Addr{Network: "unix", Path: path}, nil
}

// isDirPath is true for paths that can only mean a directory.
func isDirPath(path string) bool {
	last := path[strings.LastIndexByte(path, '/')+1:]
	return last == "" || last == "." || last == ".."
}

// tidyPath drops empty and "." elements, so that unix:///run/a is unix:/run/a
// and a child's socket is recognised by its name. It keeps "..": what that
// means depends on symbolic links, which only the kernel can follow.
func tidyPath(path string) string {
	var b strings.Builder
	for elem := range strings.SplitSeq(path, "/") {
		if elem != "" && elem != "." {
			b.WriteByte('/')
			b.WriteString(elem)
		}
	}
	return b.String()
}

// isUnprintable is true for blanks, and for what must be quoted to be shown:
// control characters, those that turn the direction of writing, broken UTF-8.
func isUnprintable(r rune) bool {
	return r == ' ' || r == utf8.RuneError || !strconv.IsPrint(r)
}

func isNoHostRune(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	// Underscores are not allowed in host names, but container networks use
	// them; names in other scripts are for the resolver to judge.
	return r < 0x80 && r != '-' && r != '.' && r != '_'
}
