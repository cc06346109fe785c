package config

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mayBecome says what tiproxy lacks to start, and later to stop, a child of
// user u: see setuid(2), setgroups(2) and kill(2).
func mayBecome(u *User) error {
	var caps [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0]); err != nil {
		return nil //nolint:nilerr // it cannot be told now: the start will
	}
	var missing []string
	for _, want := range []struct {
		number int
		name   string
	}{{unix.CAP_SETUID, "CAP_SETUID"}, {unix.CAP_SETGID, "CAP_SETGID"}, {unix.CAP_KILL, "CAP_KILL"}} {
		if caps[0].Effective&(1<<want.number) == 0 {
			missing = append(missing, want.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("a child of %v can be started and stopped by root only, or with CAP_SETUID, CAP_SETGID and CAP_KILL (missing: %s): start tiproxy so, or leave it out",
		u, strings.Join(missing, ", "))
}

// asUser runs look, which may look at files and nothing else, with the rights
// that u has on files: the kernel's answer counts access lists and security
// modules in, which the mode bits of a file do not tell.
func asUser(u *User, look func()) {
	if u == nil || u.Own {
		look()
		return
	}
	done := make(chan struct{})
	go lookAs(u, look, done)
	<-done
}

// lookAs is asUser's goroutine, for its thread alone takes u's rights on files
// (setfsuid(2)). If they cannot be given back the thread ends with it.
func lookAs(u *User, look func(), done chan<- struct{}) {
	defer close(done)
	runtime.LockOSThread()
	before, err := becomeOnFiles(u)
	if err == nil {
		look()
	}
	if before.restore() == nil {
		runtime.UnlockOSThread()
	}
	if err != nil {
		look() // then tiproxy's own rights have to do
	}
}

// rights are what lookAs changes. The kernel takes the parent-death signal
// from a thread, and the right to look into the process, when the rights on
// files change (commit_creds in the kernel, PR_SET_PDEATHSIG(2const)).
type rights struct {
	groups   []int
	uid, gid int
	death    int32
	dumpable int
}

func becomeOnFiles(u *User) (r rights, err error) {
	r.uid, _ = unix.SetfsuidRetUid(-1)
	r.gid, _ = unix.SetfsgidRetGid(-1)
	if r.groups, err = unix.Getgroups(); err != nil {
		return r, err
	}
	if err = unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&r.death)), 0, 0, 0); err != nil {
		return r, err
	}
	if r.dumpable, err = unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return r, err
	}
	groups := make([]int, len(u.Groups))
	for i, g := range u.Groups {
		groups[i] = int(g)
	}
	if err = unix.Setgroups(groups); err != nil {
		return r, err
	}
	return r, setOnFiles(int(u.UID), int(u.GID))
}

func (r rights) restore() error {
	// The user first: root's rights on files come back with it.
	err := errors.Join(setOnFiles(r.uid, r.gid), unix.Setgroups(r.groups))
	if r.death != 0 {
		err = errors.Join(err, unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(r.death), 0, 0, 0))
	}
	if r.dumpable == 1 { // SUID_DUMP_USER, the only one that can be set again and matters
		err = errors.Join(err, unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
	}
	return err
}

// setOnFiles: these calls cannot fail, they just do nothing (setfsuid(2)).
func setOnFiles(uid, gid int) error {
	_, _ = unix.SetfsgidRetGid(gid)
	_, _ = unix.SetfsuidRetUid(uid)
	newUID, _ := unix.SetfsuidRetUid(-1)
	newGID, _ := unix.SetfsgidRetGid(-1)
	if newUID != uid || newGID != gid {
		return unix.EPERM
	}
	return nil
}

// mayEnter reports whether a directory can be entered with the rights on files
// that this thread has, unlike access(2), which asks for the real user's.
func mayEnter(dir string) bool {
	path, err := unix.BytePtrFromString(dir)
	if err != nil {
		return false
	}
	at := unix.AT_FDCWD
	_, _, errno := unix.Syscall6(unix.SYS_FACCESSAT2, uintptr(at), uintptr(unsafe.Pointer(path)), unix.X_OK, unix.AT_EACCESS, 0, 0)
	if errno == unix.ENOSYS || errno == unix.EPERM { // before Linux 5.8, or filtered
		return syscall.Access(dir, unix.X_OK) == nil
	}
	return errno == 0
}
