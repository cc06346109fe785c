//go:build linux

package e2e

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// playRole is the main of the servers that no package offers.
//
//	echo ADDR      answers every line with "PID line", tells its signals on stderr
//	dying ADDR     repeats every line, with "DYING" in front after SIGTERM, and takes its time to end
//	stubborn ADDR  as echo, and only SIGKILL ends it
//	peer ADDR      answers every line with the addresses of both ends; "close your door" and "open your door" are done
//	tally ADDR     says how many bytes a client sent, once the client has half-closed
//	whoami ADDR    answers questions about itself, see whoami
//	hoard          takes all large pipes that its user may have
//	unblocked LINE becomes that command, with no signal blocked
//	never          never listens
//	touch FILE     makes a file, to show that it was started
func playRole(words []string) int {
	role, argument := words[0], ""
	if len(words) > 1 {
		argument = words[1]
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	switch role {
	case "lingers":
		lingers(words[1:])
	case "echo":
		go serve(argument, echo)
	case "dying":
		return dying(argument, signals)
	case "stubborn":
		go serve(argument, echo)
		for sig := range signals {
			fmt.Fprintln(os.Stderr, "child ignores", sig)
		}
	case "peer":
		go newHost(argument).serve()
	case "tally":
		go serve(argument, tally)
	case "whoami":
		go serve(argument, whoami)
	case "unblocked":
		return unblocked(words[1:])
	case "hoard":
		return hoard()
	case "never":
		fmt.Fprintln(os.Stderr, "child never listens")
	case "touch":
		if err := os.WriteFile(argument, nil, 0o644); err != nil {
			return 1
		}
	default:
		play, known := faultRoles[role]
		if !known {
			return 1
		}
		go play(words[1:])
	}
	fmt.Fprintln(os.Stderr, "child got", <-signals)
	return 0
}

// unblocked starts from a known signal mask: a thread of this binary that starts
// something may have blocked them all.
func unblocked(line []string) int {
	runtime.LockOSThread()
	path, err := exec.LookPath(line[0])
	if err == nil {
		err = unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil)
	}
	if err == nil {
		err = syscall.Exec(path, line, os.Environ())
	}
	fmt.Fprintln(os.Stderr, "unblocked:", err)
	return 1
}

func serve(address string, handle func(net.Conn)) { acceptAll(listen(address), handle) }

func acceptAll(l net.Listener, handle func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go handle(c)
	}
}

func listen(address string) net.Listener {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
		os.Remove(path)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	return l
}

func echo(c net.Conn) {
	answer(c, func(line string) string { return fmt.Sprint(os.Getpid(), " ", line) })
}

// answer serves one client line by line, until it half-closes.
func answer(c net.Conn, reply func(line string) string) {
	defer c.Close()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		if _, err := fmt.Fprintln(c, reply(lines.Text())); err != nil {
			return
		}
	}
}

func tally(c net.Conn) {
	defer c.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, c)
	if err != nil {
		return
	}
	fmt.Fprintf(c, "%d %x\n", n, sum.Sum(nil))
}

// dying is a server that was told to end and shows it: whoever is still served
// then should not have been sent to it.
func dying(address string, signals <-chan os.Signal) int {
	var ending atomic.Bool
	l := listen(address)
	go acceptAll(l, func(c net.Conn) {
		answer(c, func(line string) string {
			if ending.Load() {
				return "DYING " + line
			}
			return line
		})
	})
	<-signals
	ending.Store(true)
	// Some programs close their listener at once, some never.
	if rand.IntN(2) == 0 {
		l.Close()
	}
	<-time.After(time.Duration(rand.IntN(15)) * time.Millisecond)
	return 0
}
