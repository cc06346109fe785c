package process

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// instance names one run of this program in the marks it gives: no two runs on
// one machine have the same, neither at the same time nor one after another.
func instance(self ident) string {
	return "@" + strconv.Itoa(self.pid) + "." + strconv.FormatUint(self.start, 10)
}

// selfIdent is this process.
func selfIdent() ident {
	p, _ := readProc(os.Getpid())
	return ident{pid: os.Getpid(), start: p.start}
}

// parseMark takes a mark apart: the service and number of the life, and the run
// of the program that gave it.
func parseMark(mark string) (life string, giver ident, ok bool) {
	at := strings.LastIndexByte(mark, '@')
	if at < 0 {
		return "", ident{}, false
	}
	pid, start, found := strings.Cut(mark[at+1:], ".")
	n, err := strconv.Atoi(pid)
	s, err2 := strconv.ParseUint(start, 10, 64)
	if !found || err != nil || err2 != nil {
		return "", ident{}, false
	}
	return mark[:at], ident{pid: n, start: s}, true
}

// Escaped finds processes that bear the mark of a run of this program that is
// over, in this PID namespace: what a stop or a keeper could not end.
func Escaped() []Left {
	var left []Left
	for _, p := range allProcs() {
		if !p.alive() {
			continue
		}
		mark, _ := readMark(p.pid)
		life, giver, ok := parseMark(mark)
		if !ok || nested(p.pid) {
			continue
		}
		if g, found := readProc(giver.pid); found && g.start == giver.start && g.alive() {
			continue
		}
		left = append(left, Left{PID: p.pid, Name: procName(p.pid), Mark: life})
	}
	return left
}

func procName(pid int) string {
	var buf [64]byte
	n := readFile("/proc/"+strconv.Itoa(pid)+"/comm", buf[:])
	return strings.TrimSpace(string(buf[:n]))
}

// nested is true for processes of a PID namespace inside ours: the pids in
// their marks mean something else (NSpid in proc_pid_status(5)).
func nested(pid int) bool {
	status, _ := readAll("/proc/" + strconv.Itoa(pid) + "/status")
	return severalPIDs(status)
}

func severalPIDs(status []byte) bool {
	_, rest, _ := bytes.Cut(status, []byte("\nNSpid:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return len(bytes.Fields(line)) > 1
}
