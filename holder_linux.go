package main

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// portHolder finds a process that listens on the TCP port, and its name. pid
// is 0 when there is none that we may look into.
func portHolder(port uint16) (pid int, name string) {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		listeners(table, port, inodes)
	}
	if len(inodes) == 0 {
		return 0, ""
	}
	// Unreadable directories, those of other users, match nothing.
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err == nil && inodes[link] {
			dir := filepath.Dir(filepath.Dir(fd))
			comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
			pid, _ := strconv.Atoi(filepath.Base(dir))
			return pid, oneLine(strings.TrimSpace(string(comm)))
		}
	}
	return 0, ""
}

// listeners adds the sockets of a table of proc_net(5) that listen on port, as
// they look behind /proc/PID/fd.
func listeners(table string, port uint16, inodes map[string]bool) {
	f, err := os.Open(table)
	if err != nil {
		return
	}
	defer f.Close()
	const listen = "0A"
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != listen {
			continue
		}
		_, hex, _ := strings.Cut(fields[1], ":")
		if n, err := strconv.ParseUint(hex, 16, 16); err == nil && uint16(n) == port {
			inodes["socket:["+fields[9]+"]"] = true
		}
	}
}
