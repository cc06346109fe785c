package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ExitError tells how a child ended that did not end with status 0, or that
// ended before it was ready.
type ExitError struct {
	Program   string   // path of the program
	Status    string   // "exit status 3", "signal: killed (core dumped)"
	LastLines []string // what it printed last, oldest first
	Hint      string   // what to do about it; may be empty
}

// Error is one line: program, status, last printed line, hint.
func (e *ExitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", e.Program, e.Status)
	if n := len(e.LastLines); n > 0 {
		fmt.Fprintf(&b, "; it printed last: %q", e.LastLines[n-1])
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, " (hint: %s)", e.Hint)
	}
	return b.String()
}

// PortTaken reports whether the child said that its address is in use.
func (e *ExitError) PortTaken() bool { return saysInUse(e.LastLines) }

func saysInUse(lines []string) bool {
	text := strings.ToLower(strings.Join(lines, "\n"))
	return strings.Contains(text, "address already in use") || strings.Contains(text, "eaddrinuse")
}

// NotReadyError tells why a child that lives is not ready.
type NotReadyError struct {
	Program   string   // path of the program
	LastLines []string // what it printed last, oldest first
	Err       error    // what the readiness probe says
}

// Error is one line: the probe's word and the last printed line.
func (e *NotReadyError) Error() string {
	if n := len(e.LastLines); n > 0 {
		return fmt.Sprintf("%v; it printed last: %q", e.Err, e.LastLines[n-1])
	}
	return e.Err.Error()
}

// Unwrap returns what the readiness probe says.
func (e *NotReadyError) Unwrap() error { return e.Err }

// errEnded is what Ready returns for a life that is over.
var errEnded = errors.New("the child has ended")

// ending is how a process ended.
type ending struct {
	code   int            // exit status; -1 when a signal ended it
	signal syscall.Signal // 0 when it exited by itself
	core   bool
}

func (e ending) String() string {
	switch {
	case e.signal == 0:
		return fmt.Sprintf("exit status %d", e.code)
	case e.core:
		return fmt.Sprintf("signal: %v (core dumped)", e.signal)
	default:
		return fmt.Sprintf("signal: %v", e.signal)
	}
}

func (e ending) clean() bool { return e.signal == 0 && e.code == 0 }

// err tells the ending to people.
func (e ending) err(program string, lines []string, killed bool) *ExitError {
	return &ExitError{Program: program, Status: e.String(), LastLines: lines, Hint: e.hint(lines, killed)}
}

// hint explains an ending where experience tells what it means. killed: it was
// us who sent SIGKILL.
func (e ending) hint(lines []string, killed bool) string {
	text := strings.ToLower(strings.Join(lines, "\n"))
	switch {
	case saysInUse(lines):
		return "another process holds the port, or an outgoing connection uses it as its own: see `ss -tanp`, and prefer a port below net.ipv4.ip_local_port_range"
	case e.signal == syscall.SIGKILL && !killed:
		return "it was not tiproxy that killed it: the kernel may have been out of memory, see `dmesg`"
	case e.signal == 0 && e.code == 127:
		return "127 is how shells and wrappers say that a program was not found"
	case e.signal == 0 && e.code == 126:
		return "126 is how shells and wrappers say that a program could not be executed"
	case strings.Contains(text, "permission denied"), strings.Contains(text, "eacces"):
		return "something may not be opened by this user; ports below net.ipv4.ip_unprivileged_port_start (1024) need CAP_NET_BIND_SERVICE"
	}
	return ""
}

// BackgroundHint explains a child that ended with status 0 before it was ready.
// left: other processes of its tree still live.
func BackgroundHint(left bool) string {
	const how = "keep it in the foreground (often `-D`, `-F`, `--foreground`, `--nodaemon` or `daemonize no`; in a shell script start the server with `exec`, without `&`)"
	if left {
		return "it put itself into the background, what it left is being stopped: " + how
	}
	return "it ended by itself, or put itself into the background: " + how
}

// startError tells why the child could not be started. The kernel's errno for a
// bad directory or interpreter looks like that of a bad program (execve(2),
// chdir(2)), so the cause is looked for here.
func startError(c *Command, err error) error {
	if c.Dir != "" {
		derr := enterable(c.Dir)
		if derr != nil && (c.User == nil || errors.Is(derr, fs.ErrNotExist)) {
			return fmt.Errorf("start %s: working directory: %w", c.Path, derr)
		}
	}
	hint := userHint(c, err)
	if hint == "" {
		hint = startHint(c.Path, err)
	}
	if hint == "" {
		return fmt.Errorf("start %s: %w", c.Path, err)
	}
	return fmt.Errorf("start %s: %w (hint: %s)", c.Path, err, hint)
}

// userHint explains what another user cannot do although we could, "" if that
// does not explain err.
func userHint(c *Command, err error) string {
	switch {
	case c.User == nil:
	case errors.Is(err, syscall.EACCES) && c.Activated:
		self, _ := os.Executable() // without a name the hint still tells what to look for
		return fmt.Sprintf("%s must be allowed to enter %s and to execute tiproxy itself (%s), by way of which a child that inherits its listener is started",
			c.User.Name, c.Dir, self)
	case errors.Is(err, syscall.EACCES):
		return fmt.Sprintf("%s must be allowed to enter %s and to execute %s: see the permissions of both and of the directories above them (`namei -l`)",
			c.User.Name, c.Dir, c.Path)
	case errors.Is(err, syscall.EPERM):
		return fmt.Sprintf("becoming %s takes CAP_SETUID and CAP_SETGID, and a user namespace that allows setgroups(2)", c.User.Name)
	case errors.Is(err, syscall.EINVAL):
		return fmt.Sprintf("%s, or one of its groups, does not exist in tiproxy's user namespace: see /proc/self/uid_map and gid_map", c.User.Name)
	}
	return ""
}

func enterable(dir string) error {
	st, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case !st.IsDir():
		return &fs.PathError{Op: "chdir", Path: dir, Err: syscall.ENOTDIR}
	}
	if err := unix.Access(dir, unix.X_OK); err != nil {
		return &fs.PathError{Op: "chdir", Path: dir, Err: err}
	}
	return nil
}

func startHint(path string, err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return ""
	}
	switch errno {
	case syscall.ENOENT:
		if interp := interpreter(path); interp != "" {
			return "it is a script and its interpreter " + interp + " is missing"
		}
		if _, serr := os.Stat(path); serr == nil {
			return "the program exists, its dynamic loader does not: was it built for another system?"
		}
		return "there is no such program"
	case syscall.EACCES:
		if st, serr := os.Stat(path); serr == nil && st.IsDir() {
			return "it is a directory"
		}
		return "it must be executable (chmod +x), on a file system that is not mounted noexec, and so must its interpreter"
	case syscall.ENOEXEC:
		return "it is no program for this machine; a script needs a first line such as #!/bin/sh"
	case syscall.ELOOP:
		return "its path leads through a loop of symbolic links"
	case syscall.ETXTBSY:
		return "somebody has it open for writing"
	case syscall.EAGAIN:
		return "the limit of processes is reached (ulimit -u, pids cgroup)"
	case syscall.ENOMEM:
		return "out of memory"
	case syscall.EMFILE, syscall.ENFILE:
		return "the limit of open files is reached (ulimit -n)"
	case syscall.E2BIG:
		return "its arguments and environment are too long"
	case syscall.EPERM:
		return "a security policy or a nosuid mount forbids it"
	}
	return ""
}

// interpreter returns what stands behind #! in the file at path, if anything.
func interpreter(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	buf := make([]byte, 256)
	n, _ := f.Read(buf)
	line, _, _ := strings.Cut(string(buf[:n]), "\n")
	rest, ok := strings.CutPrefix(line, "#!")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	return name
}
