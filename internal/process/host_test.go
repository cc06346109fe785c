//go:build linux

package process

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stage is a command line that sets something up and becomes argv.
func stage(what string, argv ...string) []string {
	return append([]string{"/proc/self/exe", asStage, what}, argv...)
}

// hosted is a command line of the small program with a host.
func hosted(mode, token string, argv ...string) []string {
	return append([]string{"/proc/self/exe", asHost, mode, token}, argv...)
}

func childOf(token string, mode ...string) []string {
	return append([]string{"/proc/self/exe", asChild, token}, mode...)
}

// program starts a command line outside any host of ours. Whatever bears the
// token is gone when the test ends.
func program(t *testing.T, token string, argv []string) (cmd *exec.Cmd, out *sink) {
	t.Helper()
	cmd = exec.Command(argv[0], argv[1:]...)
	cmd.Path = "/proc/self/exe"
	out = &sink{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), raceQuick...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for _, pid := range bearers(token) {
			t.Errorf("process %d is left", pid)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return cmd, out
}

// awaitTree waits until the small program knows that its tree is the child and
// those who said so under the given names, nobody else.
func awaitTree(t *testing.T, out *sink, names ...string) {
	t.Helper()
	want := []int{out.number(t, "child")}
	for _, name := range names {
		want = append(want, out.number(t, name))
	}
	eventually(t, fmt.Sprint("the tree is ", want), func() bool {
		for line := range strings.Lines(out.String()) {
			list, ok := strings.CutPrefix(line, "members [")
			if !ok || len(strings.Fields(list)) != len(want) {
				continue
			}
			list = " " + strings.Replace(list, "]", " ", 1)
			if !slices.ContainsFunc(want, func(pid int) bool { return !strings.Contains(list, fmt.Sprintf(" %d ", pid)) }) {
				return true
			}
		}
		return false
	})
}

func output(t *testing.T, token string, argv []string) string {
	t.Helper()
	cmd, out := program(t, token, argv)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return out.String()
}

// What the child finds is what it would find without us.
func TestChildFindsWhatWeWereStartedWith(t *testing.T) {
	tests := []struct{ name, stage string }{
		{"plain", "umask=18"},
		{"umask and limits", "umask=23,nofile=100"},
		{"hangup and interrupt ignored", "ignore=1,ignore=2"},
		{"signals blocked", "block=10,block=40"},
		{"stray descriptors", "fds=7"},
	}
	keep := []string{"Umask", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Uid", "Gid", "Groups"}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			token := newToken(t)
			cat := []string{"/bin/cat", "/proc/self/status", "/proc/self/limits", "/proc/self/oom_score_adj"}
			direct := output(t, token, stage(tt.stage, cat...))
			through := output(t, token, stage(tt.stage, hosted("run", token, cat...)...))
			heir := output(t, token, stage(tt.stage, hosted("heir", token, cat...)...))
			want, got, inherits := pick(direct, keep), pick(through, keep), pick(heir, keep)
			if want != got || want != inherits || len(want) < 100 {
				t.Errorf("directly:\n%s\nthrough the host:\n%s\nwith a listener:\n%s", want, got, inherits)
			}
		})
	}
}

// pick keeps the named lines of a status file, and all of limits.
func pick(text string, names []string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		name, _, found := strings.Cut(line, ":")
		if found && !slices.Contains(names, name) || strings.HasPrefix(line, "status ") {
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}

func TestChildGetsNoStrayDescriptors(t *testing.T) {
	token := newToken(t)
	cmd, out := program(t, token, stage("fds=7", hosted("serve", token, "/bin/sleep", "1000")...))
	child := out.number(t, "child")
	awaitTree(t, out)
	eventually(t, "the dynamic loader is done", func() bool { return procName(child) == "sleep" && len(linksOf(child)) == 3 })
	fds := linksOf(child)
	if len(fds) != 3 || fds[0] != "0 /dev/null" || !strings.HasPrefix(fds[1], "1 pipe:") || !strings.HasPrefix(fds[2], "2 pipe:") {
		t.Errorf("descriptors %q", fds)
	}
	for _, fd := range linksOf(out.number(t, "keeper")) {
		if strings.HasSuffix(fd, "/dev/zero") {
			t.Errorf("the keeper has %s", fd)
		}
	}
	if n := strings.Count(fmt.Sprint(linksOf(cmd.Process.Pid)), "/dev/zero"); n != 7 {
		t.Errorf("the program has %d stray descriptors: nothing is tested", n)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	out.number(t, "stopped")
}

func TestChildEnvironmentIsExact(t *testing.T) {
	r := newRig(t)
	cmd := r.command("/usr/bin/env", "-0")
	cmd.Env = CleanEnv(
		[]string{"A=1", "B=2", "LISTEN_FDS=1", "LISTEN_PID=2", "LISTEN_FDNAMES=x", "NOTIFY_SOCKET=/x", "WATCHDOG_USEC=1", "WATCHDOG_PID=1", "TIPROXY_IDLE=1s", "TIPROXY_CHILD=old@1.1", "NOTIFY_SOCKETS=kept", "A=3", "=odd"},
		[]string{"B=4", "C=5", "TIPROXY_CHILD=x", "EMPTY="})
	l := r.start(cmd)
	r.exit(l)
	want := []string{"NOTIFY_SOCKETS=kept", "A=3", "=odd", "B=4", "C=5", "EMPTY=", "TIPROXY_CHILD=test.1" + r.host.name, ""}
	if got := strings.Split(r.out.String(), "\x00"); !slices.Equal(got, want) {
		t.Errorf("environment %q, want %q", got, want)
	}
}

func TestChildHasItsOwnGroup(t *testing.T) {
	r := newRig(t)
	l := r.run("wait")
	p, _ := readProc(l.Pid())
	if p.pgrp != l.Pid() {
		t.Errorf("process group %d of child %d", p.pgrp, l.Pid())
	}
}

func TestWorkingDirectory(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	cmd := r.command("/bin/pwd", "-P")
	cmd.Dir = dir
	r.exit(r.start(cmd))
	if got := strings.TrimSpace(r.out.String()); got != dir {
		t.Errorf("directory %q", got)
	}
}

// Beside orphans that are reaped, no status of a child is lost.
func TestNoStatusIsLost(t *testing.T) {
	token := newToken(t)
	out := output(t, token, hosted("loop", token, "500"))
	if out != "wrong 0\nchildren 0\n" {
		t.Errorf("output:\n%s", out)
	}
}

// As PID 1 everybody's orphans are reaped, and no stranger is taken for a child.
func TestAsInit(t *testing.T) {
	t.Run("statuses", func(t *testing.T) {
		token := newToken(t)
		out := output(t, token, inPIDNamespace(t, hosted("loop", token, "200")...))
		if out != "wrong 0\nchildren 0\n" {
			t.Errorf("output:\n%s", out)
		}
	})
	t.Run("strangers", func(t *testing.T) {
		token := newToken(t)
		cmd, out := program(t, token, inPIDNamespace(t, hosted("serve", token, childOf(token, "parent", "daemon", "wait", "deep")...)...))
		deep := out.number(t, "deep")
		out.number(t, "keeper")
		init := initOf(t, cmd.Process.Pid)
		// A stranger: a process put into the namespace from outside, orphaned there.
		stranger, said := newToken(t), &sink{}
		into := []string{"-t", fmt.Sprint(init), "-p", "-m"}
		enter := exec.Command("nsenter", append(into, os.Args[0], asChild, stranger, "leave", "setsid", "0", "count")...)
		enter.Stdout, enter.Stderr = said, said
		if err := enter.Start(); err != nil {
			t.Fatal(err)
		}
		said.number(t, "pid")
		var pids []int
		eventually(t, "the stranger is alone", func() bool { pids = bearers(stranger); return len(pids) == 1 })
		short := exec.Command("nsenter", append(into, "/bin/sh", "-c", "(/bin/true &) ; exit 0")...)
		if o, err := short.CombinedOutput(); err != nil {
			t.Fatalf("nsenter: %v\n%s", err, o)
		}
		eventually(t, "no zombie is left in the namespace", func() bool { return zombiesBelow(init) == 0 })
		if !isAlive(pids[0]) || deep == 0 {
			t.Errorf("strangers %v", pids)
		}
		_ = syscall.Kill(init, syscall.SIGTERM)
		out.number(t, "stopped")
		_ = cmd.Wait()
		eventually(t, "the stranger ends with its PID namespace", func() bool { return len(bearers(stranger)) == 0 })
		_ = enter.Wait()
		if strings.Contains(said.String(), "term") {
			t.Errorf("the stranger was asked to stop:\n%s", said)
		}
	})
}

// inPIDNamespace is a command line in which argv is PID 1.
func inPIDNamespace(t *testing.T, argv ...string) []string {
	t.Helper()
	needRoot(t)
	self := append([]string{os.Args[0]}, argv[1:]...)
	return stage("umask=18", append([]string{unshareTool(t), "--pid", "--fork", "--kill-child", "--mount-proc"}, self...)...)
}

func unshareTool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("unshare")
	if err != nil {
		cannot(t, err.Error())
	}
	return path
}

// initOf finds the child of unshare: PID 1 of the namespace.
func initOf(t *testing.T, unshare int) (pid int) {
	t.Helper()
	eventually(t, "unshare has a child", func() bool {
		kids := childrenOf(unshare)
		if len(kids) == 1 {
			pid = kids[0]
		}
		return pid != 0
	})
	return pid
}

func zombiesBelow(pid int) (n int) {
	for _, p := range allProcs() {
		if p.ppid == pid && !p.alive() {
			n++
		}
	}
	return n
}

// Threads of the program come and go; a child dies with the program alone.
func TestChildSurvivesThreads(t *testing.T) {
	r := newRig(t)
	var lives []*life
	for range 3 {
		lives = append(lives, r.start(r.command("/bin/sleep", "1000")))
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(endThread)
		}
		wg.Wait()
	}
	for _, l := range lives {
		select {
		case e := <-l.Exited():
			t.Errorf("the child ended with a thread: %+v", e)
		default:
		}
		r.stop(l)
	}
}

// endThread: a goroutine that returns locked takes its thread with it.
func endThread() { runtime.LockOSThread() }

// Somebody else in the program who starts a process and waits for it gets its
// status; nobody who does not wait leaves a zombie for long.
func TestOthersMayStartProcesses(t *testing.T) {
	r := newRig(t)
	for i := range 20 {
		err := exec.Command("/bin/sh", "-c", fmt.Sprintf("exit %d", i+1)).Run()
		if fmt.Sprint(err) != fmt.Sprintf("exit status %d", i+1) {
			t.Fatalf("run %d: %v", i, err)
		}
	}
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	eventually(t, "the forgotten process is reaped", func() bool { return len(r.host.children()) == 0 })
	if took := time.Since(start); took < zombieGrace/2 {
		t.Errorf("reaped after %v", took)
	}
	_ = cmd.Process.Release()
}

// A process that ends between the look at it and what is done about it is still
// somebody else's.
func TestReapingNeverTakesALivingChildOfOthers(t *testing.T) {
	r := newRig(t)
	over, ended := make(chan struct{}), make(chan struct{})
	go reapOnAndOn(r.host, over, ended)
	for i := range 200 {
		err := exec.Command("/bin/sh", "-c", "exit 3").Run()
		if fmt.Sprint(err) != "exit status 3" {
			t.Errorf("run %d: %v", i, err)
			break
		}
	}
	close(over)
	<-ended
}

func reapOnAndOn(h *Host, over <-chan struct{}, ended chan<- struct{}) {
	defer close(ended)
	for {
		select {
		case <-over:
			return
		default:
			h.do(h.reap)
		}
	}
}

// A helper of the program itself is not taken for an orphan of the tree.
func TestStopSparesOurOwnHelpers(t *testing.T) {
	r := newRig(t)
	l := r.run("wait")
	r.out.number(t, "pid")
	helper := exec.Command("/bin/sleep", "1000")
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	r.stop(l)
	if !isAlive(helper.Process.Pid) {
		t.Error("the helper was killed")
	}
	_ = helper.Process.Kill()
	_ = helper.Wait()
}
