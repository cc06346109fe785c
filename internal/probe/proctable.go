package probe

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
)

// socket is a listening socket as the kernel's tables show it.
type socket struct {
	inode   uint64 // what /proc/PID/fd/N calls it, "socket:[inode]"
	uid     int    // who created it; -1 if the table does not tell
	device  uint32 // the interface it is bound to, 0 if none
	addr    netip.AddrPort
	path    string // unix: the name as it was bound, which may be relative
	vfsDev  uint32 // unix: device of the bound file, in the kernel's encoding
	vfsIno  uint32 // unix: low 32 bits of the bound file's inode
	hasFile bool   // unix: vfsDev and vfsIno are known
}

// stateListen is TCP_LISTEN of the kernel's net/tcp_states.h, which unix
// sockets use too.
const stateListen = 10

// parseProcTCP calls yield for every listening socket in the text of
// /proc/net/tcp or /proc/net/tcp6 (proc_pid_net(5)), until that returns false.
// Lines that make no sense are passed over.
func parseProcTCP(text []byte, yield func(socket) bool) {
	for line := range bytes.Lines(text) {
		s, ok := parseProcTCPLine(line)
		if ok && !yield(s) {
			return
		}
	}
}

// parseProcTCPLine takes one line apart:
//
//	sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode ...
func parseProcTCPLine(line []byte) (socket, bool) {
	f := bytes.Fields(line)
	if len(f) < 10 || string(f[3]) != "0A" {
		return socket{}, false
	}
	addr, ok := parseHexAddr(f[1])
	if !ok {
		return socket{}, false
	}
	uid, err := strconv.ParseUint(string(f[7]), 10, 32)
	if err != nil {
		return socket{}, false
	}
	inode, err := strconv.ParseUint(string(f[9]), 10, 64)
	if err != nil || inode == 0 {
		return socket{}, false
	}
	return socket{inode: inode, uid: int(uid), addr: addr}, true
}

// parseHexAddr reads "0100007F:0BB8". The kernel prints the address as 32-bit
// words of its own byte order, whatever the network's is.
func parseHexAddr(s []byte) (netip.AddrPort, bool) {
	words, port, ok := bytes.Cut(s, []byte(":"))
	if !ok || len(words) != 8 && len(words) != 32 {
		return netip.AddrPort{}, false
	}
	var ip [16]byte
	n, err := hex.Decode(ip[:], words)
	if err != nil {
		return netip.AddrPort{}, false
	}
	for i := 0; i < n; i += 4 {
		binary.NativeEndian.PutUint32(ip[i:], binary.BigEndian.Uint32(ip[i:]))
	}
	p, err := strconv.ParseUint(string(port), 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	a, _ := netip.AddrFromSlice(ip[:n])
	return netip.AddrPortFrom(a, uint16(p)), true
}

// parseProcUnix calls yield for every listening socket that has a name in the
// text of /proc/net/unix, until that returns false. A line is
//
//	Num: RefCount Protocol Flags Type St Inode Path
//
// and the path may hold blanks. One that holds a line break can make the table
// lie, but only about names: owners are looked up by inode all the same.
func parseProcUnix(text []byte, yield func(socket) bool) {
	for line := range bytes.Lines(text) {
		s, ok := parseProcUnixLine(bytes.TrimSuffix(line, []byte("\n")))
		if ok && !yield(s) {
			return
		}
	}
}

// acceptsConnections is __SO_ACCEPTCON of the kernel's linux/net.h, the flag of
// a listening socket in /proc/net/unix.
const acceptsConnections = 1 << 16

func parseProcUnixLine(line []byte) (socket, bool) {
	const columns = 7
	var f [columns][]byte
	rest := line
	for i := range f {
		rest = bytes.TrimLeft(rest, " ")
		end := bytes.IndexByte(rest, ' ')
		if end < 0 {
			return socket{}, false // no path follows: no name
		}
		f[i], rest = rest[:end], rest[end:]
	}
	flags, err := strconv.ParseUint(string(f[3]), 16, 32)
	if err != nil || flags&acceptsConnections == 0 {
		return socket{}, false
	}
	inode, err := strconv.ParseUint(string(f[6]), 10, 64)
	if err != nil || inode == 0 || len(rest) < 2 {
		return socket{}, false
	}
	return socket{inode: inode, uid: -1, path: string(rest[1:])}, true
}

// rank says how well a listening socket serves connections to dest: 0 not at
// all, more is better. It is the kernel's own order (compute_score of
// net/ipv4/inet_hashtables.c) as far as the tables show it. Whether a socket on
// [::] takes IPv4 too is not shown; nearly all do.
func rank(s socket, dest netip.AddrPort) int {
	bound := s.addr.Addr()
	switch {
	case s.addr.Port() != dest.Port():
		return 0
	case bound.Unmap() == dest.Addr().WithZone(""):
		return 3
	case dest.Addr().Is4() && bound.Unmap() == netip.IPv4Unspecified():
		return 2
	case bound == netip.IPv6Unspecified():
		return 1
	}
	return 0
}
