//go:build linux

package process

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// eat takes every descriptor that is left, until it is called again.
func eat(t *testing.T) (release func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = 256
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	var held []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		held = append(held, fd)
	}
	release = func() {
		for _, fd := range held {
			unix.Close(fd)
		}
		held = nil
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	}
	t.Cleanup(release)
	return release
}

// With nothing but the reserve a child and its keeper are started, its tree is
// seen whole and stopped, and the reserve is there again.
func TestShortage_ReserveIsEnoughForALife(t *testing.T) {
	r := newRig(t)
	release := eat(t)
	for range 3 {
		l := r.run("parent", "setsid", "wait", "deep")
		r.out.await(t, "parent ")
		eventually(t, "the tree is seen", func() bool {
			found, whole := l.tree.look()
			return whole && len(found) == 2
		})
		eventually(t, "there is a keeper", func() bool { return keeperOf(r.host) != 0 })
		r.stop(l)
	}
	if held := heldBySpare(); held != reserveSize {
		t.Errorf("%d descriptors in reserve, want %d", held, reserveSize)
	}
	release()
	r.quiet()
}

// Where a few descriptors are left, enough to look at the child, a check is
// started with the reserve.
func TestShortage_ReserveIsEnoughForACheck(t *testing.T) {
	r := newRig(t)
	l := r.start(r.sh(r.child(), "exit 0"))
	r.out.number(t, "pid")
	eventually(t, "there is a keeper", func() bool { return keeperOf(r.host) != 0 })
	release := eat(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur += probeNeeds
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := l.Ready(ctx); err != nil {
		t.Errorf("Ready = %v", err)
	}
	r.stop(l)
	release()
	r.quiet()
}

func heldBySpare() int {
	spare.mu.Lock()
	defer spare.mu.Unlock()
	return len(spare.held)
}

// Who cannot look does not conclude that nobody is there, and does not stop
// asking before it can look again.
func TestShortage_NobodyIsGoneWhoCannotBeSeen(t *testing.T) {
	r := newRig(t)
	l := r.run("parent", "setsid", "wait", "deep")
	deep := r.out.number(t, "deep")
	eventually(t, "the tree is seen", func() bool { return len(l.tree.members()) == 2 })
	spare.close()
	release := eat(t)
	if found, whole := l.tree.look(); whole || len(found) > 0 {
		t.Errorf("without a descriptor, %v were seen, whole %v", found, whole)
	}
	if !l.anyLeft() {
		t.Error("nobody is left, says who cannot look")
	}
	if err := signalProc(ident{pid: deep, start: 1}, 0); err != unix.EMFILE {
		t.Errorf("signal to somebody who cannot be looked at: %v", err)
	}
	ended := make(chan struct{})
	go stopAndTell(l, context.Background(), ended)
	pause := time.NewTimer(2 * lastLook)
	select {
	case <-ended:
		t.Error("stopped, says who cannot look")
	case <-pause.C:
	}
	release()
	within(t, "the stop ends once it can look", ended)
	if isAlive(deep) {
		t.Error("the grandchild lives")
	}
}

// A start that lacks something waits with growing pauses, says so once, and goes
// on as soon as it is there; it ends with its context.
func TestShortage_StartWaits(t *testing.T) {
	r := newRig(t)
	short := &shortProber{fails: 5}
	l := r.startWith(r.command(r.self("wait")...), short)
	r.stop(l)
	for _, line := range []string{`msg="start waits"`, "too many open files (hint: the limit of open files", `msg="start goes on"`} {
		if n := strings.Count(r.log.String(), line); n != 1 {
			t.Errorf("%q %d times in:\n%s", line, n, r.log)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	res := NewResource(r.host, r.command(r.self("wait")...), &shortProber{fails: 1000}, nil)
	l2, err := res.Start(ctx, 7)
	if l2 != nil || !errors.Is(err, unix.EMFILE) {
		t.Errorf("Start at its context's end: %v, %v; want the shortage", l2, err)
	}
}

// shortProber fails with a shortage so many times.
type shortProber struct {
	fakeProber
	fails int
}

func (s *shortProber) Before(context.Context) error {
	if s.fails--; s.fails >= 0 {
		return unix.EMFILE
	}
	return nil
}

// A dead child that could not be seen for want of a descriptor is reaped when
// there is one, though nothing tells of it again.
func TestShortage_TheDeadAreReapedLater(t *testing.T) {
	r := newRig(t)
	l := r.run("wait")
	r.out.number(t, "pid")
	l.tree.members() // it is news, of which the keeper is told
	eventually(t, "there is a keeper that knows the child", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.guarded > 0
	})
	keeper := keeperOf(r.host)
	spare.close()
	release := eat(t)
	before := spare.misses.Load()
	_ = unix.Kill(keeper, unix.SIGKILL)
	eventually(t, "it was looked for in vain", func() bool { return spare.misses.Load() > before && unix.Kill(keeper, 0) == nil })
	release()
	eventually(t, "it is reaped", func() bool { return errors.Is(unix.Kill(keeper, 0), unix.ESRCH) })
	r.stop(l)
}
