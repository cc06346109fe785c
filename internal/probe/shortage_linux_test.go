package probe

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Without a descriptor to look with, nothing is concluded: not that a socket is
// the tree's, not that it is a stranger's, not that a connection was taken. As
// soon as there are some, everything is known as ever.
func TestWithoutDescriptorsNothingIsConcluded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	inode, err := listenerInode(ln)
	if err != nil {
		t.Fatal(err)
	}
	at := ln.Addr().(*net.TCPAddr)
	l := &Listen{
		Dest:    Dest{Network: "tcp", Host: "127.0.0.1", Port: uint16(at.Port)},
		OnGuess: func(msg string) { t.Errorf("guessed: %s", msg) },
	}
	ours := pidTree{os.Getpid()}
	if _, err := l.Wait(t.Context(), ours); err != nil { // warms up: the poller has its descriptors
		t.Fatal(err)
	}

	release := eatDescriptors(t)
	if theirs, err := l.notOurs([]socket{{inode: inode, uid: os.Getuid()}}, ours); theirs != nil || !isShortage(err) {
		t.Errorf("whose socket: %v, %v", theirs, err)
	}
	if taken, known := Taken(conn); taken || !known {
		t.Errorf("taken %v, known %v; want not yet", taken, known)
	}
	if err := l.Before(t.Context()); !isShortage(err) {
		t.Errorf("Before: %v, want a shortage and no stranger", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var stranger *StrangerError
	if _, err := l.Wait(short, ours); !isShortage(err) || errors.As(err, &stranger) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: %v", err)
	}

	found := make(chan error, 1)
	go waitAndTell(t.Context(), l, ours, found)
	began := time.Now()
	release()
	if err := <-found; err != nil {
		t.Error(err)
	}
	t.Logf("known again after %v", time.Since(began))
	if taken, known := Taken(conn); taken || !known {
		t.Errorf("taken %v, known %v", taken, known)
	}
	if err := l.Before(t.Context()); !errors.As(err, &stranger) {
		t.Errorf("Before: %v, want a stranger", err)
	}
}

func waitAndTell(ctx context.Context, l *Listen, tree Tree, found chan<- error) {
	_, err := l.Wait(ctx, tree)
	found <- err
}

// eatDescriptors takes all that are left.
func eatDescriptors(t *testing.T) (release func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = 200
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
