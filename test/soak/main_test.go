//go:build linux

package soak

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bound is how long something is waited for that is sure to come. It is
// generous, for machines that build something else at the same time, and no
// statement about tiproxy's speed.
const bound = 60 * time.Second

// binary is the tiproxy under test; self is a copy of this test binary. Both
// are set once, by TestMain.
var binary, self string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "role" {
		os.Exit(playRole(os.Args[2:]))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tiproxy-soak-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := prepare(dir); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return 1
	}
	code := m.Run()
	if left := reapOrphans(); len(left) > 0 {
		fmt.Fprintln(os.Stderr, "soak: processes left after all tests:", left)
		return 1
	}
	return code
}

// prepare builds what is tested and makes this process the one that orphans
// fall to, so that nothing can leave its sight.
func prepare(dir string) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	me, err := os.Executable()
	if err != nil {
		return err
	}
	self = filepath.Join(dir, "soak-child")
	if err := copyFile(self, me); err != nil {
		return err
	}
	binary = filepath.Join(dir, "tiproxy")
	if given := os.Getenv("BIN_UNDER_TEST"); given != "" {
		return copyFile(binary, given)
	}
	build := exec.Command("go", "build", "-race", "-buildvcs=false", "-o", binary, "../..")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build tiproxy: %w\n%s", err, out)
	}
	return nil
}

func copyFile(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
