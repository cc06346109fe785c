package config

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// lookupTimeout bounds the question to a name server whether dest is our own
// address.
const lookupTimeout = 2 * time.Second

// workdir returns v as an absolute path of a directory that can be entered, or
// "" when it is none.
func (c *checker) workdir(v Value, u *User) string {
	if v.Given && v.Text == "" {
		c.report(v, errors.New("is empty: write a directory, or leave it out for the current one"))
		return ""
	}
	dir, err := filepath.Abs(v.Text)
	if err != nil {
		c.report(v, fmt.Errorf("cannot tell the current directory: %w", err))
		return ""
	}
	if err := checkDir(dir); err != nil {
		c.report(v, forChild(err, u))
		return ""
	}
	return dir
}

func checkDir(dir string) error {
	if hasNUL(dir) {
		return fmt.Errorf("%q contains a NUL byte: write the path of a directory", dir)
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s does not exist: create it or write another directory", dir)
	case err != nil:
		return fmt.Errorf("%s cannot be used: %w", dir, cause(err))
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory: write one, for example %s", dir, filepath.Dir(dir))
	case !mayEnter(dir):
		return fmt.Errorf("%s may not be entered by this user: it needs the x permission", dir)
	}
	return nil
}

// program returns the absolute path of the child's program, or "". workdir is
// "" when it is not known.
func (c *checker) program(v Value, workdir string, u *User) string {
	switch {
	case !v.Given:
		c.report(v, errors.New("is missing: say which program to start, for example ./server"))
		return ""
	case v.Text == "":
		c.report(v, errors.New("is empty: write the program to start, for example ./server"))
		return ""
	case hasNUL(v.Text):
		c.report(v, fmt.Errorf("%q contains a NUL byte: write the path of a program", v.Text))
		return ""
	}
	path, err := findProgram(v.Text, workdir)
	c.report(v, forChild(err, u))
	return path
}

// findProgram resolves a name with a slash from the current directory, and one
// without in PATH and then in workdir.
func findProgram(name, workdir string) (string, error) {
	if strings.Contains(name, "/") {
		path, err := filepath.Abs(name)
		if err != nil {
			return "", fmt.Errorf("cannot tell the current directory: %w", err)
		}
		err = checkProgram(path)
		if errors.Is(err, fs.ErrNotExist) {
			return "", pathNotFound(name, path)
		}
		return path, err
	}
	var firstErr error
	for _, dir := range searchDirs(workdir) {
		path := filepath.Join(dir, name)
		err := checkProgram(path)
		if err == nil {
			return path, nil
		}
		if firstErr == nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			firstErr = err
		}
	}
	if firstErr != nil {
		return "", firstErr
	}
	return "", notFound(name, workdir)
}

// searchDirs are the directories of PATH and workdir. Relative entries of PATH
// are left out, as os/exec does: what they mean changes with the directory in
// which somebody happens to start tiproxy.
func searchDirs(workdir string) []string {
	var dirs []string
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), workdir) {
		if filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// checkProgram says why the file at path could not be started. Its error wraps
// fs.ErrNotExist when there is no such file.
func checkProgram(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, syscall.ENOENT):
		return fs.ErrNotExist
	case err != nil:
		return fmt.Errorf("%s cannot be used: %w", path, cause(err))
	case info.IsDir():
		return fmt.Errorf("%s is a directory: write the path of a program", path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file: write the path of a program", path)
	}
	if _, err := exec.LookPath(path); err != nil {
		if info.Mode()&0o111 != 0 {
			return fmt.Errorf("%s may not be executed: see its permissions, and whether its file system is mounted noexec", path)
		}
		return fmt.Errorf("%s is not executable: chmod +x %s", path, path)
	}
	return nil
}

func notFound(name, workdir string) error {
	places := "PATH"
	if workdir != "" {
		places += " or in " + workdir
	}
	if here, err := filepath.Abs(name); err == nil && checkProgram(here) == nil {
		return fmt.Errorf("%q not found in %s, but it is in the current directory: write ./%s", name, places, name)
	}
	if program, args, ok := splitArgs(name); ok {
		return fmt.Errorf("%q not found in %s: %s", name, places, argsHint(program, args))
	}
	return fmt.Errorf("%q not found in %s: install it or write its path, such as ./%s", name, places, name)
}

// pathNotFound explains that there is nothing at path, which was written as
// name.
func pathNotFound(name, path string) error {
	if program, args, ok := splitArgs(name); ok {
		return fmt.Errorf("%s not found: %s", path, argsHint(program, args))
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%s is a symbolic link to something that does not exist: write another path", path)
	}
	return fmt.Errorf("%s not found: check the path", path)
}

// splitArgs finds out whether somebody wrote the arguments along with the
// program, as for a shell.
func splitArgs(name string) (program, args string, ok bool) {
	program, args, ok = strings.Cut(name, " ")
	return program, strings.TrimSpace(args), ok && program != ""
}

func argsHint(program, args string) string {
	return fmt.Sprintf("arguments go behind --: write --exec %s -- %s", program, args)
}

// cause strips the operation and the path that package os puts in front.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// checkPlace checks what can only be said of bind, dest and ready together.
func checkPlace(s Service, bindFrom string) error {
	if s.Bind.Network != "" {
		if err := checkLoop(s.Bind, s.Dest, bindFrom); err != nil {
			return err
		}
	}
	return checkLocal(s.Dest, s.Ready)
}

// checkLoop refuses a dest that is the address on which tiproxy itself
// listens: it would connect to itself until the descriptors are used up.
func checkLoop(bind, dest Addr, bindFrom string) error {
	if !SamePlace(bind, dest) {
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
func checkLocal(dest Addr, ready Ready) error {
	if !ready.Listen || dest.Network != "tcp" {
		return nil
	}
	ips := addresses(dest.Host)
	if len(ips) == 0 || slices.ContainsFunc(ips, isOurs) {
		return nil
	}
	return fmt.Errorf("%s is not on this machine, where --ready listen could see it: write --ready dial", dest)
}

// SamePlace reports whether connecting to dest would reach a listener on bind,
// whatever the spelling: names, every-address listeners, interface addresses,
// symbolic links. Port 0 is no place. A name that cannot be resolved within
// 2 s counts as another machine.
func SamePlace(bind, dest Addr) bool {
	if bind.Network != dest.Network {
		return false
	}
	if bind.Network == "unix" {
		return sameFile(bind.Path, dest.Path)
	}
	if bind.Port != dest.Port || bind.Port == 0 {
		return false
	}
	if bind.Host != "" && strings.EqualFold(bind.Host, dest.Host) {
		return true
	}
	return reaches(addresses(bind.Host), addresses(dest.Host))
}

// reaches is true when one of the addresses of dest belongs to a listener on
// one of those of bind.
func reaches(bind, dest []netip.Addr) bool {
	for _, b := range bind {
		for _, d := range dest {
			switch {
			case sameIP(b, d):
				return true
			case b.IsUnspecified() && (b.Is6() || d.Is4()) && (d.IsUnspecified() || isOurs(d)):
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
func addresses(host string) []netip.Addr {
	if host == "" {
		return []netip.Addr{netip.IPv6Unspecified()}
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil
	}
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	return ips
}

// isOurs is true for addresses of this machine.
func isOurs(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if own, ok := netip.AddrFromSlice(n.IP); ok && own.Unmap() == ip.WithZone("") {
				return true
			}
		}
	}
	return false
}

// sameFile compares two paths by what they lead to. Neither has to exist.
func sameFile(a, b string) bool {
	if resolved(a) == resolved(b) {
		return true
	}
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
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
