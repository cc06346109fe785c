package process

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
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
	env := append(os.Environ(), "LISTEN_PID="+strconv.Itoa(os.Getpid()))
	err := syscall.Exec(args[1], args[2:], env)
	fmt.Fprintf(os.Stderr, "cannot execute %s: %v\n", args[1], err)
	return 126
}

// listenEnv is what tells a child of the socket it is handed, but for the
// number that only it knows.
func (c *Command) listenEnv() []string {
	return []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=" + c.Service}
}

// start is what to execute: the program, or ourselves on the way to it.
func (c *Command) start() (path string, args []string) {
	if !c.Activated {
		return c.Path, c.Args
	}
	return keeperExe, append([]string{activatorName, c.Path}, c.Args...)
}
