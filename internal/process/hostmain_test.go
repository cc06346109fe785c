//go:build linux

package process

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hostedGrace is the stop timeout of the small program.
const hostedGrace = 3 * time.Second

// hostMain is a small program with a host. mode:
//
//	serve: start the command, tell who is in its tree, stop it on SIGTERM
//	calm:  the same, without a look at the tree before the stop
//	run:   start the command, end when it ends
//	heir:  the same, with a listener that the command is handed
//	check: start a child that waits, and ask the command whether it is ready
//	loop:  start the shell again and again beside orphans, count wrong statuses
func hostMain(mode string, argv []string) int {
	host, err := NewHost(Options{})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer host.Close()
	if mode == "loop" {
		return loop(host, argv)
	}
	cmd := Command{
		Service: "hosted", Path: argv[0], Args: argv, Env: CleanEnv(os.Environ(), nil),
		StopTimeout: hostedGrace, Stdout: os.Stdout, Stderr: os.Stderr,
	}
	if mode == "check" {
		cmd.Gates.Commands = []Check{{Name: "check", Path: argv[0], Args: argv}}
		cmd.Args = append(argv[:3:3], "wait")
	}
	if mode == "heir" {
		cmd.Activated, cmd.Listener = true, listener()
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	l, err := NewResource(host, cmd, fakeProber{}, log).Start(context.Background(), 1)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if mode == "run" || mode == "heir" {
		e := <-l.Exited()
		l.Stop(context.Background())
		fmt.Fprintln(os.Stderr, "status", e.Status)
		return 0
	}
	if mode == "check" {
		go askReady(l.(*life), make(chan error, 1))
	}
	return serve(host, l.(*life), mode == "calm")
}

func serve(host *Host, l *life, calm bool) int {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Printf("child %d\n", l.Pid())
	for said := ""; ; time.Sleep(5 * time.Millisecond) {
		select {
		case <-term:
			l.Stop(context.Background())
			fmt.Println("stopped 1")
			return 0
		default:
		}
		if calm {
			continue
		}
		// Say who is in the tree once the keeper knows it, too.
		now := fmt.Sprint(pidsOf(l.tree.members()))
		known := len(l.tree.unsent(nil))
		l.mu.Lock()
		guarded := l.guarded
		l.mu.Unlock()
		if keeper := keeperOf(host); keeper != 0 && now != said && guarded == known {
			said = now
			fmt.Printf("keeper %d\nmembers %s\n", keeper, now)
		}
	}
}

func keeperOf(host *Host) int {
	host.mu.Lock()
	defer host.mu.Unlock()
	for pid, s := range host.own {
		if s.auto {
			return pid
		}
	}
	return 0
}

// loop: argv is the number of rounds. Each child ends with a status of its own
// and leaves an orphan that dies at the same time.
func loop(host *Host, argv []string) int {
	rounds, _ := strconv.Atoi(argv[0])
	wrong := 0
	for i := range rounds {
		status := i % 200
		script := fmt.Sprintf("(exit 7 & exit 8 &) & exit %d", status)
		cmd := Command{Service: "loop", Path: "/bin/sh", Args: []string{"sh", "-c", script}, StopTimeout: time.Second}
		l, err := NewResource(host, cmd, fakeProber{}, nil).Start(context.Background(), uint64(i))
		if err != nil {
			fmt.Println(err)
			return 1
		}
		if e := <-l.Exited(); e.Status != fmt.Sprintf("exit status %d", status) {
			fmt.Println("want", status, "got", e.Status)
			wrong++
		}
		l.Stop(context.Background())
	}
	for end := time.Now().Add(5 * time.Second); len(host.children()) > 0 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	fmt.Printf("wrong %d\nchildren %d\n", wrong, len(host.children()))
	return 0
}

// stageMain sets something up and becomes the next program. what is a list of
// key=value with commas: ignore, block (signal numbers), drop (a capability),
// uid, gid, umask, nofile, fds (that many stray descriptors), reuse of keys allowed.
func stageMain(what string, argv []string) {
	runtime.LockOSThread()
	for kv := range strings.SplitSeq(what, ",") {
		key, val, _ := strings.Cut(kv, "=")
		n, _ := strconv.Atoi(val)
		var err error
		switch key {
		case "ignore":
			signal.Ignore(syscall.Signal(n))
		case "block":
			var set unix.Sigset_t
			set.Val[(n-1)/64] |= 1 << ((n - 1) % 64)
			err = unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
		case "drop":
			err = unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0)
		case "uid":
			if err = syscall.Setgroups(nil); err == nil {
				if err = syscall.Setresgid(n, n, n); err == nil {
					err = syscall.Setresuid(n, n, n)
				}
			}
		case "gid":
			if err = syscall.Setgroups(nil); err == nil {
				err = syscall.Setresgid(n, n, n)
			}
		case "umask":
			syscall.Umask(n)
		case "nofile":
			err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(n), Max: 10000})
		case "fds":
			for range n {
				_, err = unix.Open("/dev/zero", unix.O_RDONLY, 0)
			}
		}
		if err != nil {
			fmt.Println("stage", kv, err)
			os.Exit(97)
		}
	}
	fmt.Println("exec:", syscall.Exec(argv[0], argv, os.Environ()))
	os.Exit(96)
}
