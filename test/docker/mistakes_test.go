//go:build linux

package dockere2e

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// remedy is what the build tells those whose docker/bin is not right.
const remedy = "CGO_ENABLED=0 go build && cp tiproxy docker/bin"

// folder is a copy of docker/ as a checkout has it, for one test.
func (l *lab) folder(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "docker")
	if err := os.CopyFS(to, os.DirFS(filepath.Join(l.tree, "docker"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(to, "bin/tiproxy")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return to
}

// builders are the two ways in which docker builds. Debian's own client brings
// BuildKit's, which others need a plugin for.
func (l *lab) builders(folder string) map[string]*exec.Cmd {
	args := []string{"build", "--build-arg", "TIDB_IMAGE=" + tidbImage, "--tag", "wrong:test", folder}
	classic := l.engine.command("docker", args...)
	classic.Env = append(classic.Env, "DOCKER_BUILDKIT=0")
	kit := l.engine.command("/usr/bin/docker", args...)
	kit.Env = append(kit.Env, "DOCKER_BUILDKIT=1", "BUILDKIT_PROGRESS=plain")
	return map[string]*exec.Cmd{"classic builder": classic, "BuildKit": kit}
}

func TestBuild_SaysWhatToDoWhenBinIsEmpty(t *testing.T) {
	l := shared(t)
	for name, build := range l.builders(l.folder(t)) {
		err := run(build)
		if err == nil {
			t.Errorf("%s: an image was built without tiproxy", name)
		} else if !strings.Contains(err.Error(), "docker/bin holds no tiproxy. In the repository's root: "+remedy) {
			t.Errorf("%s: no word of what to do:\n%v", name, err)
		}
	}
}

// A program of this machine's that is linked with what the image does not have.
func TestBuild_FailsWithABinaryThatCannotRun(t *testing.T) {
	l := shared(t)
	folder := l.folder(t)
	client, err := exec.LookPath("mysql")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(client)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "bin/tiproxy"), content, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, build := range l.builders(folder) {
		err := run(build)
		if err == nil {
			t.Errorf("%s: an image was built with a binary that cannot run there", name)
		} else if !strings.Contains(err.Error(), "does not run in this image. Build one that needs nothing from it: "+remedy) {
			t.Errorf("%s: no word of what to do:\n%v", name, err)
		}
	}
}

// Both builders make the image, with either kind of binary.
func TestBuild_WorksWithBothBuilders(t *testing.T) {
	l := shared(t)
	folder := l.folder(t)
	for _, cgo := range []string{"CGO_ENABLED=0", "CGO_ENABLED=1"} {
		build := l.shell("go build -o " + filepath.Join(folder, "bin/tiproxy"))
		build.Env = append(build.Env, cgo)
		if err := run(build); err != nil {
			t.Fatal(err)
		}
		for name, build := range l.builders(folder) {
			if err := run(build); err != nil {
				t.Errorf("%s, %s: %v", name, cgo, err)
			}
		}
	}
	l.docker(t, "rmi", "wrong:test")
}

// up without an image makes it, or says what it is made of.
func TestUp_WithoutAnImage(t *testing.T) {
	l := shared(t)
	folder := l.folder(t)
	if l.docker(t, "images", "--quiet", "tiproxy:latest") != "" {
		l.docker(t, "rmi", "--force", "tiproxy:latest")
	}
	compose := func(args ...string) *exec.Cmd {
		cmd := l.compose(composeFiles[0], args...)
		cmd.Dir = filepath.Dir(folder)
		return cmd
	}
	t.Cleanup(func() {
		if err := run(compose("down", "--volumes")); err != nil {
			t.Error(err)
		}
	})
	err := run(compose("up", "--detach"))
	if err == nil || !strings.Contains(err.Error(), remedy) {
		t.Fatalf("up with nothing in docker/bin: %v", err)
	}
	if err := run(l.shell("go build -o " + filepath.Join(folder, "bin/tiproxy"))); err != nil {
		t.Fatal(err)
	}
	if err := run(compose("up", "--detach")); err != nil {
		t.Fatal(err)
	}
	l.composed(t).event("listening", 1)
	l.sql(t, "select 1")
}

// Whoever has port 4000, such as the tiproxy of an earlier quick start.
func TestUp_WhenThePortIsTaken(t *testing.T) {
	l := shared(t)
	l.image(t)
	line := l.engine.within("ncat", "-l", "-k", "127.0.0.1", "4000")
	other := exec.Command(line[0], line[1:]...)
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	free := func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}
	eventually(t, "the port is taken", func() error {
		return run(exec.Command("sh", "-c", strings.Join(l.engine.within("ncat", "-z", "127.0.0.1", "4000"), " ")))
	})
	down := func() {
		if err := run(l.compose(composeFiles[0], "down", "--volumes")); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(down)
	err := run(l.compose(composeFiles[0], "up", "--detach"))
	free()
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:4000: bind: address already in use") {
		t.Fatalf("up with port 4000 taken: %v", err)
	}
	// The way out that the docs name.
	up := l.compose(composeFiles[0], "up", "--detach")
	up.Env = append(up.Env, "TIDB_PORT=4005")
	if err := run(up); err != nil {
		t.Fatal(err)
	}
	l.composed(t).event("listening", 1)
	ask := l.engine.within("sh", "-c", strings.Replace(mysqlLine, "4000", "4005", 1)+" -e 'select 1'")
	if err := run(exec.Command(ask[0], ask[1:]...)); err != nil {
		t.Error(err)
	}
}

// mysql before there is anything gets an answer at once; while TiDB starts it
// waits.
func TestMysql_TooEarly(t *testing.T) {
	l := shared(t)
	if _, err := l.mysql("select 1"); err == nil || !strings.Contains(err.Error(), "ERROR 2002 (HY000)") && !strings.Contains(err.Error(), "ERROR 2003 (HY000)") {
		t.Errorf("nothing listens, and mysql says: %v", err)
	}
	c := l.startPublished(t, "tiproxy:latest")
	sessions := make([]*session, 5)
	for i := range sessions {
		sessions[i] = l.connect(t)
		if _, err := io.WriteString(sessions[i].in, "select 'served';\n"); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range sessions {
		s.say("select 'again';", "again")
		if !s.out.has("served") {
			t.Errorf("a client that came during the start got %q", s.out.text())
		}
	}
	if n := c.count("starting"); n != 1 {
		t.Errorf("started %d times for %d clients", n, len(sessions))
	}
}
