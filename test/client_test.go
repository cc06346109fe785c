//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// result is what a client program did.
type result struct {
	stdout, stderr string
	status         int
}

// client runs a program to its end in the shared network and fails the test
// if it takes longer than bound.
func client(t *testing.T, stdin string, line ...string) result {
	t.Helper()
	return clientIn(t, host(), stdin, line...)
}

func clientIn(t *testing.T, where *space, stdin string, line ...string) result {
	t.Helper()
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A grandchild that keeps the pipes open must not keep the test.
	cmd.WaitDelay = time.Second
	if err := where.start(cmd); err != nil {
		t.Fatalf("start %v: %v", line, err)
	}
	late := time.AfterFunc(2*bound, func() { _ = cmd.Process.Kill() })
	err := wait(cmd)
	if !late.Stop() {
		t.Fatalf("%v did not end within %v; stdout: %s stderr: %s", line, 2*bound, tail(stdout.String()), tail(stderr.String()))
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", line, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// mustClient is a client that has to succeed; it returns what it printed.
func mustClient(t *testing.T, stdin string, line ...string) string {
	t.Helper()
	r := client(t, stdin, line...)
	if r.status != 0 {
		t.Fatalf("%v: exit status %d\nstdout: %s\nstderr: %s", line, r.status, tail(r.stdout), tail(r.stderr))
	}
	return r.stdout
}

// session is a client program that stays, with its stdin held open.
type session struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *stream
	stderr *stream
	done   chan struct{}
}

func openSession(t *testing.T, where *space, line ...string) *session {
	t.Helper()
	s := &session{t: t, cmd: exec.Command(line[0], line[1:]...), stdout: newStream(), stderr: newStream(), done: make(chan struct{})}
	inRead, inWrite := pipe(t)
	outRead, outWrite := pipe(t)
	errRead, errWrite := pipe(t)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr, s.stdin = inRead, outWrite, errWrite, inWrite
	// In a group of its own, so that all of a pipeline can be ended.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err := where.start(s.cmd)
	inRead.Close()
	outWrite.Close()
	errWrite.Close()
	go s.stdout.feed(outRead)
	go s.stderr.feed(errRead)
	if err != nil {
		t.Fatalf("start %v: %v", line, err)
	}
	t.Cleanup(s.close)
	go s.reap()
	return s
}

func (s *session) reap() {
	_ = wait(s.cmd) // how it ended is in ProcessState
	close(s.done)
}

func (s *session) say(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.stdin, text); err != nil {
		s.t.Fatalf("write to %v: %v", s.cmd.Args, err)
	}
}

// hears waits until the program has printed text.
func (s *session) hears(text string) {
	s.t.Helper()
	if !s.stdout.until(bound, func() bool { return strings.Contains(s.stdout.text(), text) }) {
		s.t.Fatalf("%v did not print %q; stdout: %q stderr: %q", s.cmd.Args, text, s.stdout.text(), s.stderr.text())
	}
}

// ends waits until the program has ended by itself.
func (s *session) ends() int {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(bound):
		s.t.Fatalf("%v still runs; stdout: %q stderr: %q", s.cmd.Args, s.stdout.text(), s.stderr.text())
	}
	return s.cmd.ProcessState.ExitCode()
}

// close ends the program, however it would have gone on. It may be called again.
func (s *session) close() {
	s.stdin.Close()
	select {
	case <-s.done: // its group's number may be somebody else's by now
	default:
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		<-s.done
	}
}

// dial connects to a proxy and bounds everything on the connection.
func dial(t *testing.T, where *space, address string) net.Conn {
	t.Helper()
	c, err := tryDial(where, address)
	if err != nil {
		t.Fatalf("connect to tiproxy: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func tryDial(where *space, address string) (c net.Conn, err error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	connect := func() { c, err = new(net.Dialer).DialContext(ctx, network, address) }
	if where == host() {
		connect() // any thread is in that one
	} else {
		where.do(connect)
	}
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(2 * bound))
}

// ask sends a line and reads one back.
func ask(c net.Conn, line string) (string, error) {
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return "", err
	}
	return readLine(c)
}

// askAfresh is ask on a connection of its own. A reset may come so early that
// connecting reports it.
func askAfresh(t *testing.T, where *space, address, line string) (string, error) {
	t.Helper()
	c, err := tryDial(where, address)
	if wasReset(err) {
		return "", err
	}
	if err != nil {
		t.Fatalf("connect to tiproxy: %v", err)
	}
	defer c.Close()
	return ask(c, line)
}

// readLine takes single bytes, so that it takes none of what follows the line.
func readLine(c net.Conn) (string, error) {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(c, b); err != nil {
			return string(line), err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
}

func mustAsk(t *testing.T, c net.Conn, line string) string {
	t.Helper()
	answer, err := ask(c, line)
	if err != nil {
		t.Fatalf("ask %q: %v", line, err)
	}
	return answer
}

// wasReset says whether err is how a client learns that it was cut off.
func wasReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
