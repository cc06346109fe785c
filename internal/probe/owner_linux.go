package probe

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// sight is what can be seen of a process tree at one moment.
type sight struct {
	sockets map[uint64]int // inode of each socket it holds -> pid of a holder
	blind   bool           // some process of it may not be looked into
	short   error          // why some could not be looked into for the moment
	pids    map[int]bool
}

// isShortage reports whether err means that we lack descriptors or memory to
// look. It comes back by itself, and says nothing about what was looked at.
func isShortage(err error) bool {
	for _, e := range []syscall.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// lookAt looks into every process of a tree.
func lookAt(tree Tree) sight {
	v := sight{sockets: make(map[uint64]int), pids: make(map[int]bool)}
	for _, pid := range tree.Pids() {
		v.pids[pid] = true
		err := eachSocket(pid, func(inode uint64) bool {
			v.sockets[inode] = pid
			return true
		})
		if isShortage(err) {
			v.short = err
			continue
		}
		v.blind = v.blind || hides(pid, err)
	}
	return v
}

// headHolds reports whether the tree's head can be seen to hold all of the sockets.
func headHolds(tree Tree, all []socket) bool {
	t, ok := tree.(headed)
	if !ok {
		return false
	}
	held := make(map[uint64]bool)
	if eachSocket(t.Head(), func(inode uint64) bool { held[inode] = true; return true }) != nil {
		return false
	}
	return !slices.ContainsFunc(all, func(s socket) bool { return !held[s.inode] })
}

// eachSocket calls yield for the inode of every socket among pid's descriptors,
// until that returns false. See proc_pid_fd(5) for who may look.
func eachSocket(pid int, yield func(inode uint64) bool) error {
	return eachDescriptor(pid, func(_ string, inode uint64) bool { return yield(inode) })
}

// eachDescriptor is eachSocket for who needs the descriptor's number, too.
func eachDescriptor(pid int, yield func(fd string, inode uint64) bool) error {
	dir, err := os.Open("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	for _, name := range names {
		// Listing takes other rights than reading the links does: a
		// directory that opens may still hide where its links lead.
		link, linkErr := os.Readlink(dir.Name() + "/" + name)
		if linkErr != nil {
			if !errors.Is(linkErr, fs.ErrNotExist) {
				err = linkErr
			}
			continue // closed meanwhile
		}
		if inode, ok := socketInode(link); ok && !yield(name, inode) {
			return nil
		}
	}
	return err
}

// socketInode reads "socket:[4711]".
func socketInode(link string) (uint64, bool) {
	digits, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(digits, "]"), 10, 64)
	return inode, err == nil
}

// hides reports whether err, from looking into pid, means that we may not look,
// and not merely that the process is gone. With /proc mounted hidepid=2 a
// process of another user seems to be gone. One that has ended and is not reaped
// yet has no descriptors left to hide.
func hides(pid int, err error) bool {
	switch {
	case err == nil, hasEnded(pid):
		return false
	case errors.Is(err, fs.ErrPermission):
		return true
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		return !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
	default:
		return true
	}
}

// hasEnded reports whether pid is a zombie, as far as can be seen: state Z or X in
// proc_pid_stat(5), behind the last bracket of the name.
func hasEnded(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	i := bytes.LastIndexByte(text, ')')
	return i >= 0 && i+2 < len(text) && (text[i+2] == 'Z' || text[i+2] == 'X')
}

// usersOf adds the real, effective, saved and file system user of pid to uids.
// A process may hide its descriptors but not its users, unless /proc is mounted
// hidepid=2; since Linux 6.13 a pidfd tells them even then.
func usersOf(pid int, uids map[int]bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err == nil {
		parseStatusUids(text, uids)
		return
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_CREDS}
	if err := unix.IoctlPidfdInfo(fd, &info); err != nil || info.Mask&unix.PIDFD_INFO_CREDS == 0 {
		return
	}
	for _, uid := range []uint32{info.Ruid, info.Euid, info.Suid, info.Fsuid} {
		uids[int(uid)] = true
	}
}

// parseStatusUids reads the line "Uid:" of proc_pid_status(5).
func parseStatusUids(text []byte, uids map[int]bool) {
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(line, []byte("Uid:"))
		if !ok {
			continue
		}
		for _, f := range bytes.Fields(rest) {
			if uid, err := strconv.ParseUint(string(f), 10, 32); err == nil {
				uids[int(uid)] = true
			}
		}
		return
	}
}

// holderOf returns a process that holds the socket, 0 if none can be seen.
func holderOf(inode uint64) (pid int, name string) {
	pid, name, _ = lookForHolder(inode)
	return pid, name
}

// lookForHolder is holderOf for who must know whether there was a shortage
// that kept it from seeing everybody.
func lookForHolder(inode uint64) (pid int, name string, short error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return 0, "", shortageOf(err)
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, entry := range names {
		candidate, err := strconv.Atoi(entry)
		if err != nil {
			continue
		}
		// What may not be looked into is passed over here: the caller then
		// names the user instead.
		err = eachSocket(candidate, func(i uint64) bool {
			if i == inode {
				pid = candidate
			}
			return pid == 0
		})
		if pid != 0 {
			return pid, commandName(pid), nil
		}
		if short == nil {
			short = shortageOf(err)
		}
	}
	return 0, "", short
}

func shortageOf(err error) error {
	if isShortage(err) {
		return err
	}
	return nil
}

// commandName is proc_pid_comm(5), made fit for a log line.
func commandName(pid int) string {
	comm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return "gone"
	}
	return strings.Map(printable, strings.TrimSuffix(string(comm), "\n"))
}

func printable(r rune) rune {
	if strconv.IsPrint(r) {
		return r
	}
	return '?'
}
