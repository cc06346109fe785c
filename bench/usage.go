//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is what a program has used, and holds.
type usage struct {
	cpu         time.Duration // of all threads that live
	switches    int           // context switches of all threads that live
	resident    int           // bytes; shared pages count in part (Pss in proc(5))
	descriptors int
}

// uses adds up a program's processes: those of its tree that run the same
// executable. A server that was started by a proxy is none of the proxy.
func (p *program) uses() (usage, error) {
	root := p.cmd.Process.Pid
	exe, err := os.Readlink(procFile(root, "exe"))
	if err != nil {
		return usage{}, fmt.Errorf("what a proxy costs cannot be read: %w", err)
	}
	var sum usage
	for _, pid := range family(root, exe) {
		sum.add(pid)
	}
	return sum, nil
}

// family returns root and its descendants, as far as they run exe.
func family(root int, exe string) []int {
	found := []int{root}
	for i := 0; i < len(found); i++ {
		lists, _ := filepath.Glob(procFile(found[i], "task/*/children"))
		for _, list := range lists {
			text, _ := os.ReadFile(list)
			for _, field := range strings.Fields(string(text)) {
				pid, _ := strconv.Atoi(field)
				if its, err := os.Readlink(procFile(pid, "exe")); err == nil && its == exe {
					found = append(found, pid)
				}
			}
		}
	}
	return found
}

// add adds one process. One that has just ended adds nothing.
func (u *usage) add(pid int) {
	tasks, _ := filepath.Glob(procFile(pid, "task/*"))
	for _, task := range tasks {
		// The first number is nanoseconds on a processor: sched-stats.rst.
		if text, err := os.ReadFile(task + "/schedstat"); err == nil {
			ns, _, _ := strings.Cut(string(text), " ")
			n, _ := strconv.Atoi(ns)
			u.cpu += time.Duration(n)
		}
		text, _ := os.ReadFile(task + "/status")
		u.switches += numberAfter(text, "\nvoluntary_ctxt_switches:") + numberAfter(text, "\nnonvoluntary_ctxt_switches:")
	}
	text, _ := os.ReadFile(procFile(pid, "smaps_rollup"))
	u.resident += numberAfter(text, "\nPss:") << 10
	fds, _ := os.ReadDir(procFile(pid, "fd"))
	u.descriptors += len(fds)
}

// residentSet is VmRSS of one process, in bytes.
func residentSet(pid int) int {
	text, _ := os.ReadFile(procFile(pid, "status"))
	return numberAfter(text, "\nVmRSS:") << 10
}

func procFile(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// numberAfter returns the number behind a label, 0 when there is none.
func numberAfter(text []byte, label string) int {
	_, rest, _ := bytes.Cut(text, []byte(label))
	if fields := bytes.Fields(rest); len(fields) > 0 {
		n, _ := strconv.Atoi(string(fields[0]))
		return n
	}
	return 0
}
