//go:build linux

package soak

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// starvedFor is how long tiproxy has no descriptors in a test.
const starvedFor = 700 * time.Millisecond

// starvedMessages are what tiproxy says, once each time, when it has none.
var starvedMessages = []string{"accept paused", "dial waits", "start waits", "direct path: cannot see who is connected", "no keeper for the child: if tiproxy is killed, parts of its tree may survive"}

// A client that comes when there are no descriptors left to start the child
// with waits until there are, and is not told that the start failed. How many
// are free decides at which step of a start they run out.
func TestDescriptors_AStartWaitsForThem(t *testing.T) {
	t.Parallel()
	l := &lane{near: newSpace(t)}
	p := mustLaunch(t, l.near, childLine(manners{Listen: destAddr}))
	come := func() outcome {
		return l.client(visit{asks: []ask{{Up: 10, Down: 10}}}, bound, false).come()
	}
	if o := come(); o.ending != served {
		t.Fatal(o)
	}
	for free := range 12 {
		if left := p.asleep(bound); len(left) > 0 {
			t.Fatalf("tiproxy does not fall asleep: %v", left)
		}
		old, err := p.limitFiles(uint64(descriptors(p.pid()) + free))
		if err != nil {
			t.Fatal(err)
		}
		waiting := make(chan outcome, 2)
		for range cap(waiting) {
			go func() { waiting <- come() }()
		}
		<-time.After(starvedFor)
		if _, err := p.limitFiles(old); err != nil {
			t.Fatal(err)
		}
		raised := now()
		for range cap(waiting) {
			o := <-waiting
			if o.ending != served || time.Duration(o.answered-raised) > shortForm.recovery {
				t.Errorf("%d free descriptors: %v, %v after there were more", free, o, time.Duration(o.answered-raised))
			}
		}
	}
	p.endWell(t, starvedMessages...)
}

// What cannot be looked at for want of descriptors is not gone: a grandchild
// that outlives its parent meanwhile is stopped all the same.
func TestDescriptors_NoProcessIsForgotten(t *testing.T) {
	t.Parallel()
	l := &lane{near: newSpace(t)}
	p := mustLaunch(t, l.near, childLine(manners{Listen: destAddr, Nest: true}))
	come := func() outcome {
		return l.client(visit{asks: []ask{{Up: 10, Down: 10}}}, bound, false).come()
	}
	first := come()
	if first.ending != served || first.leader == first.server {
		t.Fatal(first)
	}
	old, err := p.limitFiles(3)
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := signalOnly(first.leader, unix.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	if !awaitEnd(pidfd) {
		t.Fatal("the child does not end after SIGKILL")
	}
	<-time.After(starvedFor)
	if _, err := p.limitFiles(old); err != nil {
		t.Fatal(err)
	}
	if second := come(); second.ending != served || second.server == first.server {
		t.Errorf("after the child's end: %v", second)
	}
	if left := p.asleep(bound); len(left) > 0 {
		t.Errorf("tiproxy does not fall asleep: %v", left)
	}
	p.endWell(t, append(starvedMessages, "closed")...)
}
