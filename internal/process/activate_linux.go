package process

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// activatorName is the argv[0] of the program while it is about to become a
// child that is handed its listening socket.
const activatorName = "tp-activate"

// IsActivator tells whether the program was started to become a child that is
// handed its listening socket. No command line of the program is mistaken for
// that: argv[0] is checked.
func IsActivator(args []string) bool { return len(args) >= 3 && args[0] == activatorName }

// ActivatorMain becomes the child: the program args[1] with the argument vector
// args[2:]. It is there because LISTEN_PID has to be the child's own number
// (sd_listen_fds(3)), which nobody knows before the child exists. It returns an
// exit status if the program cannot be executed. Call it first thing in main when
// IsActivator(os.Args).
func ActivatorMain(args []string) int {
	// What is the thread's and not the process's passes to the program from the
	// thread that executes it, which the runtime may have made: Pdeathsig is such
	// a thing (PR_SET_PDEATHSIG(2const)).
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	const pid = "LISTEN_PID="
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, pid) })
	err := syscall.Exec(args[1], args[2:], append(env, pid+strconv.Itoa(os.Getpid())))
	fmt.Fprintln(os.Stderr, startError(&Command{Path: args[1]}, err))
	return 126
}

// listenEnv is env with what tells a child of the socket it is handed, but for
// the number that only it knows. It may change env. A colon would make two names of
// one.
func (c *Command) listenEnv(env []string) []string {
	env = slices.DeleteFunc(env, func(kv string) bool {
		return strings.HasPrefix(kv, "LISTEN_FDS=") || strings.HasPrefix(kv, "LISTEN_FDNAMES=")
	})
	return append(env, "LISTEN_FDS=1", "LISTEN_FDNAMES="+strings.ReplaceAll(c.Service, ":", "-"))
}

// start is what to execute: the program, or ourselves on the way to it.
func (c *Command) start() (path string, args []string) {
	if !c.Activated {
		return c.Path, c.Args
	}
	return keeperExe, append([]string{activatorName, c.Path}, c.Args...)
}
