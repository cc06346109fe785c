package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What the child's user may not use is found before anything is started, and
// what only that user may use is found, too.
func TestCheck_FilesAreLookedAtAsTheChildsUser(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("cannot test: only root can look as somebody else")
		}
		t.Skip("NOT TESTED: only root can look as somebody else")
	}
	dir := openDir(t)
	closed := filepath.Join(dir, "closed")
	must(t, os.Mkdir(closed, 0o700))
	inside := program(t, closed, "server", 0o755)
	rootsOnly := program(t, dir, "roots", 0o744)
	everybodys := program(t, dir, "server", 0o755)
	groups := program(t, dir, "groups", 0o750)
	must(t, os.Chown(groups, 0, 4))
	t.Setenv("PATH", closed+":"+dir)
	for _, tt := range []struct{ user, exec, workdir, want, wrong string }{
		{"3999999999:7", everybodys, dir, everybodys, ""},
		{"3999999999:7", "server", dir, everybodys, ""}, // root would find the other one first
		{"3999999999:7", everybodys, closed, "", closed + " may not be entered by this user: it needs the x permission (for uid 3999999999, see --user)"},
		{"3999999999:7", inside, dir, "", inside + " cannot be used: permission denied (for uid 3999999999"},
		{"3999999999:7", rootsOnly, dir, "", rootsOnly + " may not be executed: see its permissions, and whether"},
		{"3999999999:7", groups, dir, "", groups + " may not be executed"},
		{"3999999999:4", groups, dir, groups, ""},
		{"root", inside, closed, inside, ""},
	} {
		in := text(t)
		in.User, in.Exec, in.Workdir = given("user", tt.user), given("exec", tt.exec), given("workdir", tt.workdir)
		if tt.wrong != "" {
			wantError(t, in, tt.wrong)
			continue
		}
		if got, err := Check(in); err != nil || got.Path != tt.want {
			t.Errorf("--user %s --exec %s is %q, %v; want %q", tt.user, tt.exec, got.Path, err, tt.want)
		}
	}
	if status, err := os.ReadFile("/proc/thread-self/status"); err == nil && !strings.Contains(string(status), "\nUid:\t0\t0\t0\t0\n") {
		t.Errorf("we are not ourselves any more:\n%s", status)
	}
	if n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || n != 1 {
		t.Errorf("dumpable is %d, %v: a plain user could not even read its own /proc/self any more", n, err)
	}
	if _, err := os.ReadDir(closed); err != nil {
		t.Errorf("root's rights did not come back: %v", err)
	}
}

// openDir is a directory that every user may enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "config-") //nolint:usetesting // t.TempDir is closed to other users
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	return dir
}
