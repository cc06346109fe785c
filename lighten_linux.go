package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// shed lets go of the pages of the program's own code and constants: they come
// back from the page cache when they are needed, and who sleeps needs few. It
// touches no mapping of which a page was written to, such as one that a loader
// has relocated: see MADV_DONTNEED in madvise(2). Where it cannot tell, everything
// stays as it is.
func shed() {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	own, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for start, end := range unwritten(bufio.NewScanner(f), own) {
		// What it could return is that nothing has changed.
		unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED)
	}
}

// unwritten yields the mappings of a file that cannot be written to, and were not,
// as smaps lists them: see proc_pid_smaps(5).
func unwritten(smaps *bufio.Scanner, file string) func(yield func(start, end uintptr) bool) {
	return func(yield func(start, end uintptr) bool) {
		var start, end uintptr
		fits := false
		for smaps.Scan() {
			line := smaps.Text()
			var from, to uintptr
			var access string
			if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &access); n == 3 {
				start, end = from, to
				fits = strings.HasSuffix(line, " "+file) && !strings.Contains(access, "w") && strings.HasSuffix(access, "p")
			}
			if fits && strings.Join(strings.Fields(line), " ") == "Anonymous: 0 kB" && !yield(start, end) {
				return
			}
		}
	}
}
