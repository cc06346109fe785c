package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// States of proc_net(5), as it writes them.
const (
	tcpTimeWait = "06"
	tcpListen   = "0A"
)

// portHolder finds a process that listens on the TCP port, and its name. pid
// is 0 when there is none that we may look into.
func portHolder(port uint16) (pid int, name string) {
	sockets := portSockets(port)
	for link, state := range sockets {
		if state != tcpListen {
			delete(sockets, link)
		}
	}
	pid, name, _ = holderOf(sockets)
	return pid, name
}

// portUse says who has the TCP port as its own, "" if nobody is seen to.
func portUse(port uint16) string {
	sockets := portSockets(port)
	pid, name, link := holderOf(sockets)
	switch state := sockets[link]; {
	case len(sockets) == 0:
		return ""
	case pid != 0 && state == tcpListen:
		return fmt.Sprintf("process %d (%s) listens on port %d", pid, name, port)
	case pid != 0:
		return fmt.Sprintf("process %d (%s) has a connection whose own port is %d", pid, name, port)
	case sockets["socket:[0]"] == tcpTimeWait:
		return fmt.Sprintf("a connection that has ended keeps port %d, for a minute at most (TIME_WAIT)", port)
	}
	return fmt.Sprintf("somebody who may not be looked into uses port %d", port)
}

// holderOf finds a process that has one of the sockets, its name and the socket.
func holderOf(sockets map[string]string) (pid int, name, link string) {
	if len(sockets) == 0 {
		return 0, "", ""
	}
	// Unreadable directories, those of other users, match nothing.
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		link, err := os.Readlink(fd)
		if _, found := sockets[link]; err != nil || !found {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		pid, _ := strconv.Atoi(filepath.Base(dir))
		return pid, oneLine(strings.TrimSpace(string(comm))), link
	}
	return 0, "", ""
}

// portSockets returns the TCP sockets whose own port that is, as they look
// behind /proc/PID/fd, and their states. Those that nobody has any more are
// one, with the number 0.
func portSockets(port uint16) map[string]string {
	found := map[string]string{}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		addSockets(table, port, found)
	}
	return found
}

// addSockets adds those of a table of proc_net(5).
func addSockets(table string, port uint16, found map[string]string) {
	f, err := os.Open(table)
	if err != nil {
		return
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 {
			continue
		}
		_, hex, _ := strings.Cut(fields[1], ":")
		if n, err := strconv.ParseUint(hex, 16, 16); err == nil && uint16(n) == port {
			found["socket:["+fields[9]+"]"] = fields[3]
		}
	}
}
