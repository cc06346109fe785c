//go:build linux

package process

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

func TestParseNotice(t *testing.T) {
	long := strings.Repeat("ü", statusMost)
	for in, want := range map[string]notice{
		"":                          {},
		"READY=1":                   {ready: true},
		"READY=1\n":                 {ready: true},
		"READY=1\x00":               {ready: true},
		"READY=1\n\x00":             {ready: true},
		"READY=0":                   {},
		"READY=11":                  {},
		"READY = 1":                 {},
		" READY=1":                  {},
		"ready=1":                   {},
		"READY":                     {},
		"NOT_READY=1":               {},
		"X=READY=1":                 {},
		"READY=1\x00STATUS=x":       {},
		"\x00READY=1":               {},
		"STATUS=a\nREADY=1":         {ready: true, status: "a"},
		"STATUS=a\nSTATUS=b c=d":    {status: "b c=d"},
		"STATUS=a\tb\x1b[0m\x7f \r": {status: "a b[0m"},
		"STATUS=\xffa":              {status: "?a"},
		"STATUS=" + long:            {status: long[:statusMost-4] + "..."},
		"MAINPID=1\nBARRIER=1\nRELOADING=1\nSTOPPING=1\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=9\nFDSTORE=1\nERRNO=2": {},
	} {
		if got := parseNotice([]byte(in)); got != want {
			t.Errorf("parseNotice(%q) = %+v, want %+v", in, got, want)
		}
	}
}

func FuzzNotify(f *testing.F) {
	for _, s := range []string{"READY=1", "STATUS=x\nREADY=1\n", "READY=1\x00", "STATUS=\xff\x1b", "BARRIER=1", "FDSTORE=1\nFDNAME=x", "=\n=", "STATUS=" + strings.Repeat("é", 300)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		got := parseNotice(msg)
		text := strings.TrimSuffix(string(msg), "\x00")
		want := !strings.Contains(text, "\x00") && slices.Contains(strings.Split(text, "\n"), "READY=1")
		if got.ready != want {
			t.Fatalf("%q: ready %v, want %v", msg, got.ready, want)
		}
		if len(got.status) > statusMost || !utf8.ValidString(got.status) || strings.ContainsFunc(got.status, unicode.IsControl) {
			t.Fatalf("%q: status %q", msg, got.status)
		}
	})
}

// notified is the command of a child that notifies, and waits to be ready for it.
func (r *rig) notified(args ...string) Command {
	cmd := r.command(args...)
	cmd.Gates.Notify = true
	return cmd
}

func TestNotify_ReadyWhenTheTreeSaysSo(t *testing.T) {
	for name, mode := range map[string][]string{
		"the child":          {"notify", "STATUS=x", "READY=1"},
		"its child":          {"parent", "group", "notify", "READY=1"},
		"one that has left":  {"parent", "setsid", "notify", "READY=1"},
		"an orphan":          {"parent", "daemon", "notify", "READY=1"},
		"among other things": {"notify", "STATUS=y\nREADY=1\nMAINPID=1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			l := r.start(r.notified(r.self(mode...)...))
			if _, err := l.Ready(t.Context()); err != nil {
				t.Errorf("Ready = %v", err)
			}
			r.stop(l)
			r.quiet()
		})
	}
}

func TestNotify_SaysWhatIsMissing(t *testing.T) {
	r := newRig(t)
	l := r.start(r.notified(r.self("notify", "STATUS=loading", "READY=0", "STATUS=still loading\nEXTEND_TIMEOUT_USEC=1000000")...))
	eventually(t, "the last status has come", func() bool { return strings.Contains(l.notify.more(), "still") })
	_, err := l.Ready(briefly(t))
	if want := `no READY=1 has come over NOTIFY_SOCKET; its last status: "still loading": the test is over`; !errors.Is(err, errOver) || !strings.Contains(err.Error(), want) {
		t.Errorf("Ready = %v, want %s", err, want)
	}
	quiet := r.start(r.notified(r.self("wait")...))
	if _, err := quiet.Ready(briefly(t)); !strings.Contains(err.Error(), "no READY=1 has come over NOTIFY_SOCKET: the test is over") {
		t.Errorf("Ready = %v", err)
	}
}

// send sends a notification to a life from here, as a stranger.
func send(t *testing.T, l *life, msg string, fds ...int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(fd, []byte(msg), oob, &unix.SockaddrUnix{Name: l.notify.address}, 0); err != nil {
		t.Fatal(err)
	}
}

// hangsUp waits until nobody holds the write end of a pipe any more.
func hangsUp(t *testing.T, read int) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(read)}}
	if n, err := unix.Poll(fds, int(patience/time.Millisecond)); n != 1 || err != nil || fds[0].Revents&unix.POLLHUP == 0 {
		t.Fatalf("the descriptor that was sent is not closed: %d, %v, %#x", n, err, fds[0].Revents)
	}
}

// barrier waits until everything that was sent before was received.
func barrier(t *testing.T, l *life, msg string) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	send(t, l, msg, slices.Repeat([]int{fds[1]}, 253)...) // the most that one message takes
	unix.Close(fds[1])
	hangsUp(t, fds[0])
}

func TestNotify_StrangersAndNoiseAreIgnored(t *testing.T) {
	r := newRig(t)
	debug := &sink{}
	res := NewResource(r.host, r.notified(r.self("wait")...), fakeProber{}, slog.New(slog.NewTextHandler(debug, &slog.HandlerOptions{Level: slog.LevelDebug})))
	pl, err := res.Start(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	l := pl.(*life)
	t.Cleanup(func() { l.Stop(done()) })
	for _, msg := range []string{"READY=1", "READY=1", "STATUS=I am the child", "", "\x00", strings.Repeat("x", noticeMost) + "\nREADY=1"} {
		send(t, l, msg)
	}
	barrier(t, l, "BARRIER=1")
	barrier(t, l, "FDSTORE=1\nREADY=1")
	if _, err := l.Ready(briefly(t)); !errors.Is(err, errOver) || strings.Contains(err.Error(), "status") {
		t.Errorf("Ready = %v", err)
	}
	r.stop(l)
	if n := strings.Count(debug.String(), "outside the child's tree"); n != 1 {
		t.Errorf("%d lines about strangers, want 1:\n%s", n, debug)
	}
}

// A message whose sender has ended, and was reaped, before it is read cannot be
// told to be the child's; the error says so.
func TestNotify_SenderThatIsGone(t *testing.T) {
	r := newRig(t)
	n, err := newNotifier(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], asChild, r.token, "notify-exit", "READY=1")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+n.address)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l := r.run("wait")
	go n.run(l.tree)
	defer n.end()
	eventually(t, "the message was read", func() bool { return n.more() != "" })
	want := "process " + strconv.Itoa(cmd.Process.Pid) + ", which sent one, had ended too soon"
	if err := n.wait(briefly(t)); !errors.Is(err, errOver) || !strings.Contains(err.Error(), want) {
		t.Errorf("wait = %v, want it to say %s", err, want)
	}
}

// A stranger sends a socket whose last descriptor is closed when its peer has
// read everything, which is never. Nothing waits for that.
func TestNotify_NoDescriptorHoldsItUp(t *testing.T) {
	r := newRig(t)
	n, err := newNotifier(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	to := &life{notify: n}
	fd := lingering(t)
	send(t, to, "STATUS=take this", fd)
	unix.Close(fd) // the message has the last one now
	go n.run(r.run("wait").tree)
	barrier(t, to, "BARRIER=1")
	n.end()
}

// lingering makes a connected socket with bytes that its peer does not read.
func lingering(t *testing.T) (fd int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	addr := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: l.Addr().(*net.TCPAddr).Port}
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Connect(fd, addr), unix.SetNonblock(fd, true)); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = unix.Write(fd, make([]byte, 1<<16))
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// The end of a life does not wait for somebody who cannot go on.
func TestNotify_EndIsBounded(t *testing.T) {
	said := &sink{}
	n, err := newNotifier(slog.New(slog.NewTextHandler(said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); n.end() }() // though run never returns
	within(t, "the end", ended)
	if !strings.Contains(said.String(), "cannot be closed") {
		t.Errorf("said %q", said)
	}
}

// The address stays for the life, for those who go on notifying, and no longer.
func TestNotify_AddressLastsAsLongAsTheLife(t *testing.T) {
	r := newRig(t)
	l := r.start(r.notified(r.self("notify", "READY=1")...))
	if _, err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	barrier(t, l, "WATCHDOG=1")
	l2 := r.start(r.notified(r.self("wait")...))
	if l.notify.address == l2.notify.address {
		t.Error("two lives have one address")
	}
	r.stop(l)
	if c, err := net.Dial("unixgram", l.notify.address); err == nil {
		c.Close()
		t.Error("the address is still there after the life")
	}
}

func TestNotify_VariableIsThereForThisOnly(t *testing.T) {
	r := newRig(t)
	says := []string{"/bin/sh", "-c", "echo socket=$NOTIFY_SOCKET"}
	cmd := r.notified(says...)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET=/mine")
	l := r.start(cmd)
	r.exit(l)
	if got := strings.TrimSpace(r.out.String()); got != "socket="+l.notify.address {
		t.Errorf("the child has %q, want %q", got, l.notify.address)
	}
	r.exit(r.start(r.command(says...)))
	if !strings.HasSuffix(r.out.String(), "\nsocket=\n") {
		t.Errorf("the second child has %q", r.out.String())
	}
}

// systemd-notify is a short-lived process. As root it sends in the name of its
// parent; as anybody else in its own, and waits until it was heard (BARRIER=1).
func TestNotify_SystemdNotify(t *testing.T) {
	path, err := exec.LookPath("systemd-notify")
	if err != nil {
		cannot(t, "no systemd-notify: run scripts/packages.sh")
	}
	script := path + " --status=working && " + path + " --ready && echo notified && exec sleep 1000"
	for name, line := range map[string][]string{
		"by itself":                  {"/bin/sh", "-c", script},
		"as another user":            {"/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/bin/sh", "-c", script},
		"in its own mount namespace": {"/usr/bin/unshare", "--mount", "/bin/sh", "-c", script},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "by itself" {
				needRoot(t)
			}
			r := newRig(t)
			l := r.start(r.notified(line...))
			began := time.Now()
			if _, err := l.Ready(t.Context()); err != nil {
				t.Fatalf("Ready = %v", err)
			}
			r.out.await(t, "notified\n")
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("took %v: systemd-notify waited in vain to be heard", took)
			}
			_ = syscall.Kill(l.Pid(), syscall.SIGKILL)
			r.exit(l)
			r.stop(l)
			r.quiet()
		})
	}
}
