package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// bound is how long a test waits for something that must happen.
const bound = 30 * time.Second

// short is a deadline for what must not happen; nothing depends on its length.
const short = 50 * time.Millisecond

const (
	envNamespace = "PROBE_TEST_NAMESPACE" // set once this binary runs in a network namespace of its own
	envChild     = "PROBE_TEST_CHILD"     // this binary plays the child
)

func TestMain(m *testing.M) {
	if os.Getenv(envChild) != "" {
		os.Exit(playChild(os.Args[1:]))
	}
	if os.Geteuid() == 0 && os.Getenv(envNamespace) == "" {
		execInNamespace()
	}
	goleak.VerifyTestMain(m)
}

// hosts is /etc/hosts of the tests.
const hosts = "127.0.0.1 localhost both.test\n::1 localhost both.test\n::1 six.test\n"

// execInNamespace makes this process start anew in an empty network namespace,
// where no other program takes ports, and with an /etc/hosts of its own. It
// returns when that cannot be done.
func execInNamespace() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		fmt.Fprintln(os.Stderr, "probe: tests share the network with other programs:", err)
		return
	}
	if err := errors.Join(loopbackUp(), ownHosts()); err != nil {
		panic(err)
	}
	err := unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), envNamespace+"=1"))
	panic(err)
}

func ownHosts() error {
	f, err := os.CreateTemp("", "hosts")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // the mount keeps it
	_, writeErr := f.WriteString(hosts)
	return errors.Join(writeErr, f.Chmod(0o644), f.Close(),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount(f.Name(), "/etc/hosts", "", unix.MS_BIND, ""))
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// needNamespace skips a test that would disturb other programs.
func needNamespace(t *testing.T) {
	t.Helper()
	if os.Getenv(envNamespace) == "" {
		cannot(t, "it needs a network namespace of its own, that is root (CAP_SYS_ADMIN)")
	}
}

// cannot skips a test that this machine cannot run. CI can run them all.
func cannot(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal("cannot test: ", why)
	}
	t.Skip("NOT TESTED: ", why)
}

// child is a process of this same binary, see playChild.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
	done  bool
}

// startChild starts this binary as a child. It ends when its stdin is closed.
func startChild(t *testing.T, args ...string) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), envChild+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout)}
	t.Cleanup(c.end)
	return c
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// end ends the child and waits for it.
func (c *child) end() {
	if c.done {
		return
	}
	c.done = true
	c.stdin.Close()
	kill := time.AfterFunc(bound, func() { c.cmd.Process.Kill() })
	defer kill.Stop()
	io.Copy(io.Discard, c.out)
	if err := c.cmd.Wait(); err != nil {
		c.t.Errorf("child: %v", err)
	}
}

// tell writes a line to the child.
func (c *child) tell(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c.stdin, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

// hear reads a line that the child printed.
func (c *child) hear() string {
	c.t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatalf("child said %q, then: %v", line, err)
	}
	return strings.TrimSuffix(line, "\n")
}

// listen makes the child listen, and returns when it does.
func (c *child) listen(kind, addr string) {
	c.t.Helper()
	c.tell("listen " + kind + " " + addr)
	c.mustHear("listening")
}

// close makes the child close what it listens on, and returns how many
// connections it has taken there.
func (c *child) close() string {
	c.t.Helper()
	c.tell("close")
	return strings.TrimPrefix(c.hear(), "accepts ")
}

func (c *child) mustHear(want string) {
	c.t.Helper()
	if got := c.hear(); got != want {
		c.t.Fatalf("child said %q, want %q", got, want)
	}
}

// playChild is main of the child. Its arguments are a mode and what that takes.
func playChild(args []string) int {
	in := bufio.NewReader(os.Stdin)
	var err error
	switch args[0] {
	case "serve": // do as stdin says
		err = childServe(in)
	case "parent": // start a child of its own
		err = childParent(args[1:])
	case "blind": // play tiproxy without CAP_SYS_PTRACE
		err = childBlind(args[1:])
	default:
		err = fmt.Errorf("no such mode: %q", args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

// childServe does what it is told line by line: "listen", kind and address;
// "close" what listens, and say how many connections it took; "chdir" and
// directory. It answers each with a line.
func childServe(in *bufio.Reader) error {
	var ln net.Listener
	accepts := make(chan int, 1)
	for {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		words := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		switch words[0] {
		case "chdir":
			if err := os.Chdir(words[1]); err != nil {
				return err
			}
			fmt.Println("moved")
		case "listen":
			if ln, err = listenAs(words[1], words[2]); err != nil {
				return err
			}
			go countAccepts(ln, accepts)
			fmt.Println("listening")
		case "close":
			ln.Close()
			fmt.Println("accepts", <-accepts)
		}
	}
}

func countAccepts(ln net.Listener, accepts chan<- int) {
	n := 0
	for {
		conn, err := ln.Accept()
		if err != nil {
			accepts <- n
			return
		}
		n++
		conn.Close()
	}
}

func childParent(args []string) error {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// listenAs listens on addr. kind is a network of net.Listen and options:
// "tcp4,reuseport".
func listenAs(kind, addr string) (net.Listener, error) {
	network, options, _ := strings.Cut(kind, ",")
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctlErr := c.Control(func(fd uintptr) { err = setOptions(int(fd), options) })
		return errors.Join(ctlErr, err)
	}}
	lc.SetMultipathTCP(strings.Contains(options, "mptcp"))
	return lc.Listen(context.Background(), network, addr)
}

func setOptions(fd int, options string) error {
	var errs []error
	if strings.Contains(options, "reuseport") {
		errs = append(errs, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	}
	if strings.Contains(options, "device") {
		errs = append(errs, unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo"))
	}
	return errors.Join(errs...)
}

// pidTree is a tree that never changes.
type pidTree []int

func (p pidTree) Pids() []int { return p }

// descendants is the tree of a process and its children's children.
type descendants int

func (d descendants) Pids() []int {
	all := []int{int(d)}
	for i := 0; i < len(all); i++ {
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", all[i]))
		for _, task := range tasks {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", all[i], task.Name()))
			for _, f := range strings.Fields(string(text)) {
				pid, _ := strconv.Atoi(f)
				all = append(all, pid)
			}
		}
	}
	return all
}

// freePort returns a port on which nobody listens, neither by IPv4 nor by IPv6.
func freePort(t *testing.T) uint16 {
	t.Helper()
	ln, err := listenAs("tcp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

func tcpDest(host string, port uint16) Dest {
	return Dest{Network: "tcp", Host: host, Port: port}
}

// sameDescriptors checks that a test leaves no descriptor open.
func sameDescriptors(t *testing.T) {
	t.Helper()
	before := countDescriptors(t)
	t.Cleanup(func() {
		for deadline := time.Now().Add(bound); ; runtime.Gosched() {
			after := countDescriptors(t)
			if after <= before {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d descriptors open, %d before the test", after, before)
			}
		}
	})
}

func countDescriptors(t *testing.T) int {
	t.Helper()
	n := 0
	for fd := range 1024 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}
