package output

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 30s: %s", what)
		}
	}
}

// Lines stay in one piece, the newest are in the file, and no more files are
// kept than were asked for.
func TestFileRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.log")
	f := NewFile(FileConfig{Path: path, Size: 1000, Keep: 2})
	var want strings.Builder
	for i := range 1000 {
		line := fmt.Sprintf("line %d\n", i)
		want.WriteString(line)
		if _, err := f.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	var kept string
	for _, name := range []string{path + ".2", path + ".1", path} {
		part := read(t, name)
		if len(part) > 1000+len("line 999\n") || part != "" && !strings.HasSuffix(part, "\n") {
			t.Errorf("%s has %d bytes and ends with %q", name, len(part), part[max(0, len(part)-10):])
		}
		kept += part
	}
	if len(kept) < 2000 || !strings.HasSuffix(want.String(), kept) {
		t.Errorf("%d bytes are kept, and they are not the last ones", len(kept))
	}
	if _, err := os.Stat(path + ".3"); err == nil {
		t.Error("a third old file is kept")
	}
}

func TestFileGoesOnWhereItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.log")
	for i := range 3 {
		f := NewFile(FileConfig{Path: path})
		fmt.Fprintf(f, "run %d\n", i)
		f.Close()
	}
	if got := read(t, path); got != "run 0\nrun 1\nrun 2\n" {
		t.Errorf("got %q", got)
	}
}

// Somebody else's rotation is followed.
func TestFileIsMadeAnewWhenMoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db.log")
	f := NewFile(FileConfig{Path: path})
	defer f.Close()
	fmt.Fprintln(f, "old")
	eventually(t, "written", func() bool {
		text, _ := os.ReadFile(path)
		return string(text) == "old\n"
	})
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new file", func() bool {
		fmt.Fprintln(f, "new")
		_, err := os.Stat(path)
		return err == nil
	})
	if got := read(t, path+".moved"); !strings.HasPrefix(got, "old\n") {
		t.Errorf("the moved file has %q", got)
	}
}

// A directory that is gone for a while loses what does not fit, holds nobody up,
// and is told once.
func TestFileComesBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	log := &records{}
	f := NewFile(FileConfig{Path: filepath.Join(dir, "db.log"), Size: 10, Keep: 1, Log: slog.New(log)})
	defer f.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the trouble is told", func() bool {
		fmt.Fprintln(f, "more than ten bytes")
		return log.count("the child's output cannot be kept") == 1
	})
	big := []byte(strings.Repeat("z", fileQueue/4))
	for range 8 {
		if n, err := f.Write(big); n != len(big) || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is kept again", func() bool {
		return log.count("the child's output is kept again") == 1 && log.count("output dropped") >= 1
	})
	if n := log.count("the child's output cannot be kept"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// A file that cannot be opened holds nobody up, and is told of once.
func TestFileThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "none", "db.log"), "/dev/null"} {
		log := &records{}
		f := NewFile(FileConfig{Path: path, Log: slog.New(log)})
		for range 10 {
			fmt.Fprintln(f, "lost")
		}
		f.Close()
		if n := log.count("the child's output cannot be kept"); n != 1 {
			t.Errorf("%s: told %d times", path, n)
		}
	}
}
