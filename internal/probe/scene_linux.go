package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// scene is a destination, resolved, and the tables it is looked up in. It
// belongs to one call of Before, Wait or Diagnose.
type scene struct {
	dest    Dest
	tables  tables
	targets []*target // one for each address; for unix a single empty one
}

// found is a socket that serves the destination.
type found struct {
	socket
	target *target
}

// addr is the address to connect to.
func (f found) addr() net.Addr {
	if !f.target.addr.IsValid() {
		return &net.UnixAddr{Net: "unix", Name: f.path}
	}
	return net.TCPAddrFromAddrPort(f.target.addr)
}

// open resolves the destination and opens the tables, which the caller closes.
func (l *Listen) open(ctx context.Context) (*scene, error) {
	s := &scene{dest: l.Dest}
	var err error
	if l.Dest.Network == "unix" {
		s.targets = []*target{{}}
		s.tables, err = l.openTables()
		return s, err
	}
	addrs, err := l.Dest.resolveLocal(ctx)
	if err != nil {
		return nil, err
	}
	s.targets = newTargets(addrs)
	s.tables, err = l.openTables()
	return s, err
}

// all returns every listening socket that could ever serve the destination.
func (s *scene) all() ([]socket, error) {
	if s.dest.Network == "unix" {
		return s.tables.unixListeners()
	}
	return s.tables.listeners(s.dest.Port)
}

// find returns the sockets that serve the destination now, one for each of its
// addresses at most.
func (s *scene) find() ([]found, error) {
	var all []found
	for _, t := range s.targets {
		f, ok, err := s.findOne(t)
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, f)
		}
	}
	return all, nil
}

// findOne returns the socket that serves t now.
func (s *scene) findOne(t *target) (found, bool, error) {
	if s.dest.Network == "unix" {
		return s.findUnix(t)
	}
	sock, ok, err := s.tables.lookup(t)
	return found{socket: sock, target: t}, ok, err
}

// group returns f and, for TCP, all others that share its address.
func (s *scene) group(f found) []socket {
	group := []socket{f.socket}
	if !f.target.addr.IsValid() {
		return group
	}
	all, err := s.tables.listeners(f.socket.addr.Port())
	if err != nil {
		return group // then the one that was found has to do
	}
	for _, other := range all {
		same := other.addr == f.socket.addr && other.device == f.device
		if same && other.inode != f.inode {
			group = append(group, other)
		}
	}
	return group
}

// findUnix returns the listening socket that is bound to the destination's
// file. The file tells sockets apart that were bound by a relative path, through
// a symbolic link, or renamed after; its absence is found out cheaply.
func (s *scene) findUnix(t *target) (found, bool, error) {
	var st unix.Stat_t
	err := unix.Stat(s.dest.Path, &st)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return found{}, false, nil
	}
	if err != nil {
		return found{}, false, fmt.Errorf("look at dest %s: %w", s.dest, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return found{}, false, nil
	}
	all, err := s.tables.unixListeners()
	if err != nil {
		return found{}, false, err
	}
	for _, sock := range all {
		if sock.sameFile(&st) {
			return s.foundUnix(t, sock, &st), true, nil
		}
	}
	for _, sock := range all {
		if s.boundByName(sock, &st) {
			return s.foundUnix(t, sock, &st), true, nil
		}
	}
	return found{}, false, nil
}

func (s *scene) foundUnix(t *target, sock socket, st *unix.Stat_t) found {
	sock.path = s.dest.Path
	if sock.uid < 0 {
		sock.uid = int(st.Uid)
	}
	return found{socket: sock, target: t}
}

// boundByName reports whether a socket's name leads to the destination, for
// tables that do not tell the file, and for file systems (btrfs) whose stat(2)
// tells another device than the kernel itself uses. The inode must agree if it
// is known: in another mount namespace the same name is another file.
func (s *scene) boundByName(sock socket, st *unix.Stat_t) bool {
	switch {
	case sock.path == "" || sock.path[0] == '@' || filepath.Base(sock.path) != filepath.Base(s.dest.Path):
		return false
	case sock.hasFile && sock.vfsIno != uint32(st.Ino):
		return false
	case filepath.IsAbs(sock.path):
		return sameByPath(sock.path, s.dest.Path)
	}
	// A relative name was relative to the working directory of whoever bound it.
	pid, _ := holderOf(sock.inode)
	if pid == 0 {
		return false
	}
	cwd := "/proc/" + strconv.Itoa(pid) + "/cwd/"
	return sameByPath(cwd+sock.path, s.dest.Path)
}

func sameByPath(a, b string) bool {
	fa, errA := os.Stat(a)
	fb, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(fa, fb)
}

// newStranger describes who holds s, which serves addr.
func newStranger(addr net.Addr, s socket) *StrangerError {
	pid, name := holderOf(s.inode)
	return &StrangerError{Addr: addr, PID: pid, Name: name, UID: s.uid}
}
