//go:build linux

package dockere2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// bound is how long a test waits for something that is sure to come. It is
// generous, for machines that build something else at the same time, and no
// statement about anybody's speed.
const bound = time.Minute

// tools are what the tests need, and the Debian packages that bring them.
var tools = map[string]string{
	"dockerd": "docker.io", "docker": "docker.io", "docker-compose": "docker-compose", "iptables": "iptables",
	"mysql": "mariadb-client", "mariadbd": "mariadb-server", "nsenter": "util-linux", "unshare": "util-linux", "ip": "iproute2",
}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := stopLab(); err != nil {
		fmt.Fprintln(os.Stderr, "docker tests:", err)
		code = 1
	}
	os.Exit(code)
}

// lab is everything that the tests share: an engine, the images, and a copy of
// the repository in which people's lines can be typed.
type lab struct {
	dir    string // temporary, holds all of it
	tree   string // the copy
	engine *engine
	err    error
}

var theLab *lab
var makeLab = sync.OnceFunc(func() {
	theLab = &lab{}
	theLab.err = theLab.open()
})

// shared returns the lab, made by the first test that asks.
func shared(t *testing.T) *lab {
	t.Helper()
	if why := missing(); why != "" {
		impossible(t, why)
	}
	makeLab()
	if theLab.err != nil {
		t.Fatalf("prepare: %v", theLab.err)
	}
	return theLab
}

// missing says what keeps the tests from running on this machine.
func missing() string {
	if os.Geteuid() != 0 {
		return "an engine of the test's own needs root"
	}
	for tool, pkg := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Sprintf("there is no %s, of Debian's package %s (scripts/packages.sh installs it)", tool, pkg)
		}
	}
	return ""
}

// impossible skips, for all to see; on CI, where everything is to be had, it
// fails.
func impossible(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("cannot test the Docker files: %s", why)
	}
	fmt.Fprintf(os.Stderr, "\n*** NOT TESTED: the Docker files: %s\n\n", why)
	t.Skip(why)
}

func (l *lab) open() error {
	dir, err := os.MkdirTemp("", "tiproxy-docker-")
	if err != nil {
		return err
	}
	l.dir = dir
	if l.engine, err = startEngine(dir); err != nil {
		return err
	}
	if err := l.makeImages(); err != nil {
		return err
	}
	return l.copyTree()
}

// stopLab ends what shared has made.
func stopLab() error {
	if theLab == nil || theLab.dir == "" {
		return nil
	}
	var failed error
	if theLab.engine != nil {
		failed = theLab.engine.stop()
	}
	return errors.Join(failed, os.RemoveAll(theLab.dir))
}
