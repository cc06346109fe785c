//go:build linux

package dockere2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// engine is a Docker daemon in namespaces of its own: its networks, firewall
// rules and mounts are nobody else's, and the end of the first process in its
// PID namespace is the end of every process in it.
type engine struct {
	dir    string
	cmd    *exec.Cmd // unshare, outside the namespaces
	init   int       // the shell that is the first process inside, as seen from here
	cgroup string
	ended  chan struct{}
}

// inside prepares the namespaces and stays as their first process: it hands
// SIGTERM on to the daemon and reaps what the engine leaves to it.
const inside = `
set -e
dir=$1
shift
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /opt # containerd makes directories there
mkdir "$dir/etc" "$dir/etc.work"
mount -t overlay -o "lowerdir=/etc,upperdir=$dir/etc,workdir=$dir/etc.work" overlay /etc # and the engine its key
ip link set lo up
dockerd "$@" & daemon=$!
trap 'kill -TERM $daemon' TERM
code=0
wait $daemon || code=$?
while kill -0 $daemon 2>/dev/null; do wait $daemon || code=$?; done
exit $code
`

// startEngine starts a daemon with everything it has below dir and waits until
// it answers.
func startEngine(dir string) (*engine, error) {
	e := &engine{dir: dir, cgroup: fmt.Sprintf("/tiproxy-docker-%d", os.Getpid()), ended: make(chan struct{})}
	settings := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(settings, []byte("{}"), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "dockerd.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	e.cmd = exec.Command("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private", "--",
		"sh", "-c", inside, "engine", dir,
		"--config-file", settings, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--host", e.socket(), "--pidfile", filepath.Join(dir, "pid"), "--cgroup-parent", e.cgroup)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	go e.reap()
	err = poll(bound, func() error {
		if e.hasEnded() {
			return nil // there is no use in asking on
		}
		return run(e.command("docker", "version"))
	})
	if e.hasEnded() {
		err = errors.New("it has ended")
	}
	if err == nil {
		e.init, err = onlyChild(e.cmd.Process.Pid)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the engine does not answer: %w\n%s", err, tail(filepath.Join(dir, "dockerd.log"))), e.stop())
	}
	return e, nil
}

func (e *engine) reap() {
	defer close(e.ended)
	_ = e.cmd.Wait() // how it ended is in ProcessState
}

func (e *engine) hasEnded() bool {
	select {
	case <-e.ended:
		return true
	default:
		return false
	}
}

func (e *engine) socket() string { return "unix://" + filepath.Join(e.dir, "engine.sock") }

// command is a client of the engine, such as docker or docker-compose.
func (e *engine) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+e.socket(), "DOCKER_CONFIG="+filepath.Join(e.dir, "client"))
	return cmd
}

// within makes a command line of one that runs on the machine whose ports the
// engine publishes.
func (e *engine) within(args ...string) []string {
	return append([]string{"nsenter", "--target", strconv.Itoa(e.init), "--net", "--"}, args...)
}

// stop ends the daemon by its pid, and whatever would survive that.
func (e *engine) stop() error {
	var failed error
	if !e.hasEnded() && e.init != 0 {
		_ = syscall.Kill(e.init, syscall.SIGTERM)
	}
	select {
	case <-e.ended:
	case <-time.After(bound):
		failed = fmt.Errorf("the engine did not end within %v of SIGTERM:\n%s", bound, tail(filepath.Join(e.dir, "dockerd.log")))
		_ = e.cmd.Process.Kill() // and with it, by --kill-child, all
		<-e.ended
	}
	return errors.Join(failed, e.removeCgroups())
}

// removeCgroups takes away the empty control groups that containers and builds
// leave, the inner ones first.
func (e *engine) removeCgroups() error {
	return poll(bound, func() error {
		roots, err := filepath.Glob("/sys/fs/cgroup/*" + e.cgroup)
		if err != nil {
			return err
		}
		var groups []string
		for _, root := range append(roots, "/sys/fs/cgroup"+e.cgroup) {
			_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					groups = append(groups, path)
				}
				return nil // some end while we look
			})
		}
		for _, group := range slices.Backward(groups) {
			if err := syscall.Rmdir(group); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove %s: %w", group, err)
			}
		}
		return nil
	})
}

func onlyChild(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// run runs a command and puts what it printed into the error.
func run(cmd *exec.Cmd) error {
	_, err := output(cmd)
	return err
}

// output returns what a command printed on stdout.
func output(cmd *exec.Cmd) (string, error) {
	var out, all lines
	cmd.Stdout = io.MultiWriter(&out, &all)
	cmd.Stderr = &all
	if err := runBounded(cmd); err != nil {
		return out.text(), fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, all.text())
	}
	return out.text(), nil
}

// commandBound is the longest that one command may take: a cold build of the
// stand-in is the slowest.
const commandBound = 12 * time.Minute

func runBounded(cmd *exec.Cmd) error {
	cmd.WaitDelay = bound
	if err := cmd.Start(); err != nil {
		return err
	}
	over := time.AfterFunc(commandBound, func() { _ = cmd.Process.Kill() })
	defer over.Stop()
	return cmd.Wait()
}

func tail(file string) string {
	const most = 6000
	text, _ := os.ReadFile(file)
	return string(text[max(0, len(text)-most):])
}

// poll asks until the answer is nil, for at most limit.
func poll(limit time.Duration, check func() error) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for end := time.Now().Add(limit); ; <-again.C {
		err := check()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}
