//go:build linux

package process

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// treeDeath bounds how long a tree may outlive the program.
const treeDeath = 2 * time.Second

func killedTree(t *testing.T, token string, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	eventually(t, "the tree dies with the program", func() bool { return len(bearers(token)) == 0 })
	if took := time.Since(start); took > treeDeath && !loaded() {
		t.Errorf("the tree outlived the program by %v", took)
	}
	_ = cmd.Wait()
}

// However the program dies, its child's tree dies with it.
func TestTreeDiesWithTheProgram(t *testing.T) {
	needRoot(t)
	tests := []struct {
		name string
		argv func(token string) []string
		deep bool // there is a grandchild
	}{
		{"plain", func(k string) []string { return childOf(k, "wait") }, false},
		{"changed user", func(k string) []string { return nobody(k, "wait") }, false},
		{"group", func(k string) []string { return childOf(k, "parent", "group", "ignore", "deep") }, true},
		{"setsid", func(k string) []string { return childOf(k, "parent", "setsid", "ignore", "deep") }, true},
		{"daemon", func(k string) []string { return childOf(k, "parent", "daemon", "wait", "deep") }, true},
		{"daemon without our mark", func(k string) []string { return childOf(k, "parent", "bare-daemon", "wait", "deep") }, true},
		{"daemon of a changed user", func(k string) []string { return nobody(k, "parent", "daemon", "wait", "deep") }, true},
		{"wrapper script", func(k string) []string {
			return append([]string{"/bin/sh", "-c", `"$@"; true`, "sh"}, append([]string{os.Args[0]}, childOf(k, "wait", "deep")[1:]...)...)
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			token := newToken(t)
			cmd, out := program(t, token, hosted("serve", token, tt.argv(token)...))
			names := []string{"deep"}
			if !tt.deep {
				names = nil
				out.number(t, "pid") // it is what it is to become
			}
			awaitTree(t, out, names...)
			killedTree(t, token, cmd)
			child := out.number(t, "child")
			out.await(t, fmt.Sprintf("(pid %d): ", child))
		})
	}
}

// The keeper is killed first, the program at once after it: the direct child
// dies by Pdeathsig.
func TestChildDiesWithoutAKeeper(t *testing.T) {
	token := newToken(t)
	cmd, out := program(t, token, hosted("serve", token, childOf(token, "wait")...))
	awaitTree(t, out)
	keeper := out.number(t, "keeper")
	_ = syscall.Kill(cmd.Process.Pid, syscall.SIGSTOP)
	_ = syscall.Kill(keeper, syscall.SIGKILL)
	killedTree(t, token, cmd)
	if strings.Contains(out.String(), "tiproxy died") {
		t.Errorf("there was a keeper:\n%s", out)
	}
}

func TestKeeperSparesOtherPrograms(t *testing.T) {
	one, two := newToken(t), newToken(t)
	a, outA := program(t, one, hosted("serve", one, childOf(one, "parent", "daemon", "wait", "deep")...))
	b, outB := program(t, two, hosted("serve", two, childOf(two, "parent", "daemon", "wait", "deep")...))
	awaitTree(t, outA, "deep")
	awaitTree(t, outB, "deep")
	killedTree(t, one, a)
	if n := len(bearers(two)); n != 3 { // the program itself bears the token, too
		t.Errorf("%d processes of the other program", n)
	}
	_ = b.Process.Signal(syscall.SIGTERM)
	outB.number(t, "stopped")
	if err := b.Wait(); err != nil {
		t.Error(err)
	}
	if n := len(bearers(two)); n != 0 {
		t.Errorf("%d processes left after a stop", n)
	}
	if strings.Contains(outB.String(), "tiproxy died") {
		t.Errorf("the keeper spoke:\n%s", outB)
	}
}

func TestKeeperIsReplaced(t *testing.T) {
	r := newRig(t)
	l := r.run("wait")
	r.out.number(t, "pid")
	first := awaitKeeper(r, 0)
	_ = syscall.Kill(first, syscall.SIGKILL)
	second := awaitKeeper(r, first)
	_ = syscall.Kill(second, syscall.SIGKILL)
	awaitKeeper(r, second)
	if n := strings.Count(r.log.String(), "keeper of the child ended"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, r.log)
	}
	if !isAlive(l.Pid()) {
		t.Error("the child died with its keeper")
	}
	r.stop(l)
}

func awaitKeeper(r *rig, not int) (pid int) {
	r.t.Helper()
	eventually(r.t, "a keeper lives", func() bool {
		pid = keeperOf(r.host)
		return pid != 0 && pid != not
	})
	return pid
}

func TestKeeperLooksLikeItself(t *testing.T) {
	r := newRig(t)
	l := r.run("wait")
	pid := awaitKeeper(r, 0)
	eventually(t, "the keeper has its name", func() bool { return procName(pid) == keeperName })
	p, _ := readProc(pid)
	if p.session != pid {
		t.Errorf("session %d of keeper %d", p.session, pid)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1} {
		_ = syscall.Kill(pid, sig)
	}
	if mark, _ := readMark(pid); mark != "" {
		t.Errorf("the keeper bears the mark %q", mark)
	}
	r.stop(l)
	if isAlive(pid) {
		t.Error("the keeper outlived the child")
	}
	r.quiet()
}

// linksOf lists what a process has open.
func linksOf(pid int) (links []string) {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd/"
	names, _ := os.ReadDir(dir)
	for _, n := range names {
		link, _ := os.Readlink(dir + n.Name())
		links = append(links, n.Name()+" "+link)
	}
	return links
}

func TestIsKeeper(t *testing.T) {
	if IsKeeper([]string{keeperName, "1", "2", "m", "p"}) {
		t.Error("a keeper without its pipe")
	}
	if IsKeeper([]string{"tiproxy", keeperName, "2", "m", "p"}) {
		t.Error("a command line that looks a little like a keeper's")
	}
}

func TestEscaped(t *testing.T) {
	token := newToken(t)
	// A run of the program that is over: a process that was here a moment ago.
	gone := exec.Command("/bin/true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	cmd, out := program(t, token, childOf(token, "wait"))
	out.number(t, "pid")
	if left := leftOf(cmd.Process.Pid); left != nil {
		t.Errorf("no mark, yet found: %+v", left)
	}
	for _, tt := range []struct {
		mark string
		want bool
	}{
		{fmt.Sprintf("db.7@%d.1", gone.Process.Pid), true},
		{"db.7" + instance(selfIdent()), false},
		{"nonsense", false},
	} {
		marked := exec.Command("/proc/self/exe", childOf(token, "wait")[1:]...)
		marked.Env = []string{MarkVariable + "=" + tt.mark}
		if err := marked.Start(); err != nil {
			t.Fatal(err)
		}
		left := leftOf(marked.Process.Pid)
		if (left != nil) != tt.want || left != nil && left.Mark != "db.7" {
			t.Errorf("mark %q: found %+v", tt.mark, left)
		}
		_ = marked.Process.Kill()
		_ = marked.Wait()
	}
}

func leftOf(pid int) *Left {
	for _, l := range Escaped() {
		if l.PID == pid {
			return &l
		}
	}
	return nil
}
