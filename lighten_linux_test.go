package main

import (
	"bufio"
	"fmt"
	"strings"
	"testing"
)

// Only what a file has, and nobody has written to, is let go of.
func TestUnwritten(t *testing.T) {
	const smaps = `00400000-00a34000 r-xp 00000000 fe:00 1                           /opt/tiproxy
Size:               6352 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00a34000-010d9000 r--p 00634000 fe:00 1                           /opt/tiproxy
Anonymous:             4 kB
010d9000-01143000 rw-p 00cd9000 fe:00 1                           /opt/tiproxy
Anonymous:             0 kB
7f815503f000-7f8155195000 r-xp 00026000 fe:00 2                     /usr/lib/libc.so.6
Anonymous:             0 kB
7f8155235000-7f8155236000 r--p 00000000 00:00 0
Anonymous:             0 kB
00b34000-00c00000 r--p 00734000 fe:00 1                           /opt/tiproxy
Anonymous:             0 kB
`
	var got []string
	for start, end := range unwritten(bufio.NewScanner(strings.NewReader(smaps)), "/opt/tiproxy") {
		got = append(got, fmt.Sprintf("%x-%x", start, end))
	}
	if want := "400000-a34000 b34000-c00000"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %s", got, want)
	}
}

// The program runs on after it.
func TestShed(t *testing.T) {
	for range 3 {
		shed()
		if got := fmt.Sprint("still ", 7); got != "still 7" {
			t.Error(got)
		}
	}
}
