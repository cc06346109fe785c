//go:build linux

package process

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// childMain plays a child: args are the test's token, a mode and its arguments.
// Words after "+" are the mode of a grandchild.
func childMain(args []string) {
	token, mode, rest := args[0], args[1], args[2:]
	switch mode {
	case "exit":
		os.Exit(atoi([]byte(rest[0])))
	case "say": // stdout, stderr, status
		fmt.Print(rest[0])
		fmt.Fprint(os.Stderr, rest[1])
		os.Exit(atoi([]byte(rest[2])))
	case "deathsig": // of this thread, which is the first one
		var sig int32
		_ = unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&sig)), 0, 0, 0)
		fmt.Printf("deathsig %d\n", sig)
	case "die":
		_ = syscall.Kill(os.Getpid(), sigOf(rest[0]))
		select {}
	case "wait":
		ready(rest)
	case "ignore":
		signal.Ignore(syscall.SIGTERM)
		ready(rest)
	case "headless": // its first thread ends, others go on
		if syscall.Gettid() != os.Getpid() {
			os.Exit(97)
		}
		go ready(rest)
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
	case "count":
		countTerms()
	case "polite": // exits 0 on SIGTERM
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		go ready(rest)
		<-c
		fmt.Println("bye")
	case "notify-exit":
		notify(rest...)
	case "notify": // sends each word as a notification
		notify(rest...)
		ready(nil)
	case "until":
		until(token, rest[0], rest[1:])
	case "parent", "leave": // starts another mode, then waits or exits with rest[1]
		parent(token, mode, rest)
	default:
		fmt.Println("unknown mode", mode)
		os.Exit(99)
	}
}

// ready prints a line and blocks for ever, without being a deadlock.
func ready(names []string) {
	name := "pid"
	if len(names) > 0 {
		name = names[0]
	}
	fmt.Printf("%s %d\n", name, os.Getpid())
	signal.Notify(make(chan os.Signal, 1), syscall.SIGWINCH)
	select {}
}

// countTerms prints a line for every SIGTERM and does not end.
func countTerms() {
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGTERM)
	fmt.Printf("pid %d\n", os.Getpid())
	for n := 1; ; n++ {
		<-c
		fmt.Printf("term %d\n", n)
	}
}

// until prints that it is ready and exits with 0 on SIGUSR1; more: "ignore"
// SIGTERM, or be a "parent" that leaves somebody behind.
func until(token, says string, more []string) {
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, syscall.SIGUSR1)
	for _, what := range more {
		switch what {
		case "ignore":
			signal.Ignore(syscall.SIGTERM)
		case "parent":
			cmd := exec.Command("/proc/self/exe", asChild, token, "wait")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := cmd.Start(); err != nil {
				os.Exit(98)
			}
		}
	}
	fmt.Printf("%s %d\n", says, os.Getpid())
	if says == "ready" {
		notify("READY=1")
	}
	<-usr1
}

// notify sends notifications, if somebody waits for them.
func notify(messages ...string) {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return
	}
	c, err := net.Dial("unixgram", address)
	if err != nil {
		fmt.Println("notify:", err)
		os.Exit(95)
	}
	for _, m := range messages {
		if _, err := c.Write([]byte(m)); err != nil {
			fmt.Println("notify:", err)
			os.Exit(94)
		}
	}
}

// parent starts a grandchild: rest[0] says how ("group", "setsid", "daemon"; with
// "bare", without the environment; with "quiet", without our output), then, for
// leave, the status to exit with, then the grandchild's mode.
func parent(token, mode string, rest []string) {
	how, rest := rest[0], rest[1:]
	status := 0
	if mode == "leave" {
		status, rest = atoi([]byte(rest[0])), rest[1:]
	}
	args := append([]string{asChild, token}, rest...)
	if strings.Contains(how, "daemon") {
		// The middle process starts the grandchild in a session of its own and ends.
		again := strings.ReplaceAll(how, "daemon", "setsid")
		args = append([]string{asChild, token, "leave", again, "0"}, rest...)
	}
	cmd := exec.Command("/proc/self/exe", args...)
	if !strings.Contains(how, "quiet") {
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	}
	if strings.Contains(how, "bare") {
		cmd.Env = []string{"NOTHING=1"}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: strings.Contains(how, "setsid")}
	if err := cmd.Start(); err != nil {
		fmt.Println("start:", err)
		os.Exit(98)
	}
	fmt.Println("grandchild " + strconv.Itoa(cmd.Process.Pid))
	if mode == "leave" {
		os.Exit(status)
	}
	if strings.Contains(how, "daemon") {
		_ = cmd.Wait()
	}
	ready([]string{"parent"})
}
