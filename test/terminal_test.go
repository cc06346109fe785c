//go:build linux

package e2e

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// onTerminal gives tiproxy a session and a controlling terminal of its own, as
// a shell's job in the foreground has. What it prints all goes to log.
func (p *tiproxy) onTerminal() {
	master, slave, err := openTerminal()
	if err != nil {
		p.t.Fatalf("open a terminal: %v", err)
	}
	p.keyboard = master
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	err = p.setup.space.start(p.cmd)
	slave.Close()
	p.out.add("", true)
	go p.log.feed(master)
	if err != nil {
		p.t.Fatalf("start %v: %v", p.cmd.Args, err)
	}
}

// openTerminal makes a pair as pts(4) describes.
func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		unix.Close(fd)
		return nil, nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		unix.Close(fd)
		return nil, nil, fmt.Errorf("ask for the terminal's number: %w", err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		unix.Close(fd)
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), "/dev/ptmx"), slave, nil
}

// Ctrl-C goes to every process in the terminal's foreground group. The child
// is in none of it, so open connections are served until the drain is over.
func TestTerminal_CtrlCDrainsAndStopsTheChildPolitely(t *testing.T) {
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		terminal: true, dest: dest, program: self, args: []string{"role", "echo", dest},
		flags: []string{"--drain-timeout", "1m"},
	})
	c := dial(t, host(), p.address())
	mustAsk(t, c, "before")
	child := p.running("e2e-child")
	if len(child) != 1 {
		t.Fatalf("tree: %v", p.tree())
	}

	if _, err := io.WriteString(p.keyboard, "\x03"); err != nil {
		t.Fatal(err)
	}
	p.refuses()
	if answer := mustAsk(t, c, "during"); answer != fmt.Sprint(child[0].pid, " during") {
		t.Errorf("while draining the client got %q, want an answer of child %d", answer, child[0].pid)
	}
	c.Close()
	p.ends(bound)
	p.says("child got terminated")
	if strings.Contains(p.log.text(), "child got interrupt") {
		t.Error("the child got the terminal's Ctrl-C")
	}
}

func TestTerminal_SecondCtrlCEndsNow(t *testing.T) {
	dest := "127.0.0.1:" + freePort(t)
	p := run(t, setup{
		terminal: true, dest: dest, program: self, args: []string{"role", "stubborn", dest},
		flags: []string{"--drain-timeout", "10m", "--stop-timeout", "10m"},
	})
	c := dial(t, host(), p.address())
	mustAsk(t, c, "before")
	press := func() {
		if _, err := io.WriteString(p.keyboard, "\x03"); err != nil {
			t.Fatal(err)
		}
	}
	press()
	p.refuses()
	press()
	p.ends(bound)
	if _, err := ask(c, "after"); err == nil {
		t.Error("the connection outlived tiproxy")
	}
}
