package process

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

// ofMine reads a file of this process below /proc, which is what the parsers
// are made for.
func ofMine(f *testing.F, name string) []byte {
	f.Helper()
	b, err := os.ReadFile("/proc/self/" + name)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// A program may have any name: it changes nothing of what is read behind it.
func FuzzParseStat(f *testing.F) {
	_, fields, _ := strings.Cut(string(ofMine(f, "stat")), ") ")
	f.Add("sh", fields)
	f.Add(") R 1 1 1 0 (", fields)
	f.Add("a\n1 (b) S", "Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 1 18 19")
	f.Add("", "S -1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 18446744073709551616")
	f.Fuzz(func(t *testing.T, name, fields string) {
		p, ok := parseStat(7, []byte("7 ("+name+") "+fields))
		if ok && p.pid != 7 {
			t.Errorf("%+v", p)
		}
		if strings.Contains(fields, ")") {
			return // the kernel writes none there
		}
		if plain, plainOK := parseStat(7, []byte("7 (x) "+fields)); p != plain || ok != plainOK {
			t.Errorf("%+v, %v; with a simple name %+v, %v", p, ok, plain, plainOK)
		}
	})
}

func FuzzParseStatus(f *testing.F) {
	f.Add(ofMine(f, "status"))
	f.Add([]byte("Name:\tx\nUid:\t1000\t0\t0\t0\nNSpid:\t7\t1\n"))
	f.Add([]byte("\nUid:\t4294967295\n"))
	f.Add([]byte("\nUid:\n1 2 3\nNSpid:\n1 2 3"))
	f.Fuzz(func(t *testing.T, status []byte) {
		uid, ok := parseUID(status)
		if ok && (uid < 0 || !bytes.Contains(status, fmt.Append(nil, uid))) {
			t.Errorf("user %d", uid)
		}
		if severalPIDs(status) && !bytes.Contains(status, []byte("NSpid:")) {
			t.Error("in several namespaces out of nothing")
		}
	})
}

// Whatever a process has in its environment, a mark of ours is read as it was
// given, and what is read of another one can be given again.
func FuzzMark(f *testing.F) {
	f.Add(ofMine(f, "environ"), "db.1", 4711, uint64(123456))
	f.Add([]byte("A=1\x00TIPROXY_CHILD=db.1@7.8\x00TIPROXY_CHILD=db.2@7.9\x00"), "", 1, uint64(0))
	f.Add([]byte("TIPROXY_CHILD=@@+7.8"), "a@1.2", 2, uint64(1)<<63)
	f.Add([]byte("XTIPROXY_CHILD=a@1.2\x00\x00TIPROXY_CHILD"), "@", 3, uint64(1))
	f.Fuzz(func(t *testing.T, env []byte, life string, pid int, start uint64) {
		mark := markIn(env)
		if mark != "" && !bytes.Contains(env, []byte(MarkVariable+"="+mark)) {
			t.Errorf("mark %q out of nothing", mark)
		}
		if l, giver, ok := parseMark(mark); ok {
			again, giverAgain, ok := parseMark(l + instance(giver))
			if !ok || again != l || giverAgain != giver {
				t.Errorf("%q is of %q, %+v; given again %q, %+v, %v", mark, l, giver, again, giverAgain, ok)
			}
		}
		given := ident{pid: pid, start: start}
		if l, giver, ok := parseMark(life + instance(given)); !ok || l != life || giver != given {
			t.Errorf("given %q, %+v; read %q, %+v, %v", life, given, l, giver, ok)
		}
		if strings.Contains(life, "\x00") {
			return // no environment can hold it
		}
		own := append([]byte(MarkVariable+"="+life+instance(given)+"\x00"), env...)
		if got := markIn(own); got != life+instance(given) {
			t.Errorf("given %q, read %q", life+instance(given), got)
		}
	})
}
