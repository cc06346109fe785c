//go:build linux

package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// playRole is the main of the server behind the peers:
//
//	server ADDR NOTES [raw] [slow] [grandchild]
//
// Every connection begins with a line that says what shall happen on it (see
// actions). With raw, the first bytes are noted as they come, instead. With
// slow, SIGTERM closes the listener, and the end takes slowStop. With
// grandchild, a process of a session of its own is started first.
func playRole(words []string) int {
	if len(words) == 1 && words[0] == "grandchild" {
		<-make(chan struct{})
	}
	if len(words) < 3 || words[0] != "server" {
		return 1
	}
	s := &server{notes: words[2], raw: slices.Contains(words, "raw")}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	if slices.Contains(words, "grandchild") {
		startGrandchild()
	}
	l, err := net.Listen("tcp", words[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		return 1
	}
	go s.accept(l)
	<-asked
	if slices.Contains(words, "slow") {
		l.Close()
		<-time.After(slowStop)
	}
	return 0
}

const slowStop = 1500 * time.Millisecond

func startGrandchild() {
	self, err := os.Executable()
	if err != nil {
		return
	}
	cmd := exec.Command(self, "role", "grandchild")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	_ = cmd.Start() // that there is one is seen from outside
}

type server struct {
	notes    string // a file, for what the client cannot be told
	raw      bool
	accepted atomic.Int64
}

// accept ends with the listener.
func (s *server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.accepted.Add(1)
		if s.raw {
			go s.noteRaw(c.(*net.TCPConn))
		} else {
			go s.obey(c.(*net.TCPConn))
		}
	}
}

// note appends a line: O_APPEND keeps the lines of several servers whole.
func (s *server) note(format string, args ...any) {
	f, err := os.OpenFile(s.notes, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		return
	}
	defer f.Close()
	fmt.Fprintf(f, format+"\n", args...)
}

// noteRaw notes what comes until nothing comes for a moment, or the end does.
func (s *server) noteRaw(c *net.TCPConn) {
	defer c.Close()
	var got []byte
	for b := make([]byte, 4096); ; {
		n, err := c.Read(b)
		got = append(got, b[:n]...)
		if err != nil {
			break
		}
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)) // the next read tells
	}
	s.note("raw %q", got)
	fmt.Fprintln(c, "seen")
}

// obey does what the lines of a client say. A line that is no action is
// answered with this process's number and the line itself.
func (s *server) obey(c *net.TCPConn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if act, ok := actions[word]; ok {
			n, _ := strconv.Atoi(rest)
			act(s, c, in, n)
			return
		}
		if _, err := fmt.Fprintf(c, "%d %s", os.Getpid(), line); err != nil {
			return
		}
	}
}

// actions are what a client can ask for with its first word; n is the second.
var actions = map[string]func(s *server, c *net.TCPConn, in *bufio.Reader, n int){
	"late":   late,
	"tally":  tally,
	"first":  first,
	"reset":  reset,
	"watch":  watch,
	"give":   give,
	"last":   last,
	"flood":  flood,
	"deaf":   hold,
	"hold":   holdHalfClosed,
	"pair":   pair,
	"count":  tellCount,
	"urgent": urgent,
	"slowly": slowly,
}

// late answers n bytes, a second after the client has half-closed.
func late(_ *server, c *net.TCPConn, in *bufio.Reader, n int) {
	if _, err := io.Copy(io.Discard, in); err != nil {
		return
	}
	<-time.After(time.Second)
	_, _ = io.Copy(c, stream(n))
}

// tally takes everything, says what it was, and answers n bytes.
func tally(_ *server, c *net.TCPConn, in *bufio.Reader, n int) {
	sum := sha256.New()
	got, err := io.Copy(sum, in)
	if err != nil {
		return
	}
	fmt.Fprintf(c, "%d %x\n", got, sum.Sum(nil))
	_, _ = io.Copy(c, stream(n))
}

// first sends n bytes, half-closes, and notes what the client sends after that.
func first(s *server, c *net.TCPConn, in *bufio.Reader, n int) {
	if _, err := io.Copy(c, stream(n)); err != nil || c.CloseWrite() != nil {
		return
	}
	sum := sha256.New()
	got, err := io.Copy(sum, in)
	s.note("first %d %x %s", got, sum.Sum(nil), told(err))
}

// reset sends n bytes, waits for a line, and resets.
func reset(_ *server, c *net.TCPConn, in *bufio.Reader, n int) {
	if _, err := io.Copy(c, stream(n)); err != nil {
		return
	}
	_, _ = in.ReadString('\n')
	c.SetLinger(0)
}

// watch answers a line and notes how the connection ends.
func watch(s *server, c *net.TCPConn, in *bufio.Reader, _ int) {
	fmt.Fprintln(c, "watching")
	_, err := io.Copy(io.Discard, in)
	s.note("watch %s", told(err))
}

// give sends n bytes and half-closes; what still comes is read to its end.
func give(_ *server, c *net.TCPConn, in *bufio.Reader, n int) {
	if _, err := io.Copy(c, stream(n)); err != nil || c.CloseWrite() != nil {
		return
	}
	_, _ = io.Copy(io.Discard, in)
}

// last sends n bytes, and the whole server ends.
func last(_ *server, c *net.TCPConn, _ *bufio.Reader, n int) {
	if _, err := io.Copy(c, stream(n)); err == nil {
		c.Close()
		os.Exit(0)
	}
}

// slowly sends n pieces of slowPiece bytes, ten a second.
func slowly(_ *server, c *net.TCPConn, _ *bufio.Reader, n int) {
	in := stream(n * slowPiece)
	for range n {
		<-time.After(100 * time.Millisecond)
		if _, err := io.CopyN(c, in, slowPiece); err != nil {
			return
		}
	}
}

const slowPiece = 50_000

// flood sends for as long as the client lets it.
func flood(_ *server, c *net.TCPConn, _ *bufio.Reader, _ int) {
	_, _ = io.Copy(c, stream(1<<40))
}

// hold keeps the connection and reads nothing.
func hold(*server, *net.TCPConn, *bufio.Reader, int) { <-make(chan struct{}) }

// holdHalfClosed notes the client's half-close and keeps the connection.
func holdHalfClosed(s *server, c *net.TCPConn, in *bufio.Reader, n int) {
	_, err := io.Copy(io.Discard, in)
	s.note("held %s", told(err))
	hold(s, c, in, n)
}

// pair answers every two small messages with two.
func pair(_ *server, c *net.TCPConn, in *bufio.Reader, _ int) {
	for b := make([]byte, 2); ; {
		if _, err := io.ReadFull(in, b); err != nil {
			return
		}
		for i := range b {
			if _, err := c.Write(b[i : i+1]); err != nil {
				return
			}
		}
	}
}

// tellCount says how many connections there have been, this one included.
func tellCount(s *server, c *net.TCPConn, _ *bufio.Reader, _ int) {
	fmt.Fprintln(c, s.accepted.Load())
}

// urgent tells what comes of a urgent byte: in the stream, beside it, or not at
// all. It asks for the byte beside the stream first: that is an error when
// there is none (tcp(7)).
func urgent(_ *server, c *net.TCPConn, in *bufio.Reader, _ int) {
	fmt.Fprintln(c, "ready")
	beside := ""
	if raw, err := c.SyscallConn(); err == nil {
		for end := time.Now().Add(200 * time.Millisecond); beside == "" && time.Now().Before(end); <-time.After(5 * time.Millisecond) {
			_ = raw.Control(func(fd uintptr) {
				b := make([]byte, 1)
				if n, _, err := unix.Recvfrom(int(fd), b, unix.MSG_OOB|unix.MSG_DONTWAIT); err == nil && n == 1 {
					beside = string(b)
				}
			})
		}
	}
	line, _ := in.ReadString('\n')
	fmt.Fprintf(c, "stream %q beside %q\n", strings.TrimSpace(line), beside)
}

// stream is n bytes, the same for everybody who asks.
func stream(n int) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{1}), int64(n))
}

// told is how an end of a connection is told to whoever reads from it.
func told(err error) string {
	var netErr net.Error
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "clean end"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.As(err, &netErr) && netErr.Timeout():
		return "nothing"
	default:
		return err.Error()
	}
}
