package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// action is what an end of a connection does in a script.
type action int

const (
	write action = iota
	read
	halfClose
	closeAll
	resetAll
	actions
)

func (a action) String() string {
	return [actions]string{"write", "read", "half-close", "close", "reset"}[a]
}

// step is one action of one end.
type step struct {
	who int // 0 the client, 1 the server
	do  action
	n   int // bytes
}

func (s step) String() string {
	return fmt.Sprintf("%s:%v(%d)", []string{"client", "server"}[s.who], s.do, s.n)
}

// side is what tcp(7) says about one end after some steps.
type side struct {
	sent, heard int
	unread      int
	fin         bool // it has ended its direction
	closed      bool // it has no socket any more
	ended       bool // it will read an end
	broken      bool // the kernel reports POLLERR
}

// drawStep draws a step that says something in the state the two sides are in.
func drawStep(t *rapid.T, s *[2]side) step {
	who := rapid.IntRange(0, 1).Draw(t, "who")
	if s[who].closed {
		who = 1 - who
	}
	x, y := &s[who], &s[1-who]
	can := []action{closeAll, resetAll}
	if !x.broken && !x.fin {
		can = append(can, halfClose)
		if y.unread < 20_000 {
			can = append(can, write, write, write)
		}
	}
	if x.unread > 0 {
		can = append(can, read, read)
	}
	st := step{who: who, do: rapid.SampledFrom(can).Draw(t, "action")}
	switch st.do {
	case write:
		st.n = rapid.OneOf(rapid.IntRange(1, 64), rapid.IntRange(1, 20_000)).Draw(t, "bytes")
	case read:
		st.n = rapid.IntRange(1, x.unread).Draw(t, "bytes")
	}
	return st
}

// apply changes the sides as the step does on a direct connection.
func apply(st step, s *[2]side) {
	x, y := &s[st.who], &s[1-st.who]
	switch st.do {
	case write:
		x.sent += st.n
		if y.closed {
			x.broken = true
		} else {
			y.unread += st.n
		}
	case read:
		x.unread -= st.n
		x.heard += st.n
	case halfClose:
		x.fin = true
		y.ended = true
	case closeAll:
		abrupt := x.unread > 0 && !x.broken
		if !abrupt && !x.broken {
			x.fin, y.ended = true, true
		}
		leave(x, y, abrupt)
	case resetAll:
		leave(x, y, !x.broken)
	}
}

// leave takes x's socket away. A reset is sent unless both directions had ended.
func leave(x, y *side, abrupt bool) {
	x.closed = true
	if abrupt && (!x.fin || !y.fin) && !y.closed {
		y.broken = true
	}
}

// perform does the step on a socket. The bytes of a direction are one pattern.
func perform(st step, s *[2]side, ends [2]peer, data []byte) error {
	c, me := ends[st.who], s[st.who]
	switch st.do {
	case write:
		_, err := c.Write(data[me.sent : me.sent+st.n])
		return err
	case read:
		got := make([]byte, st.n)
		c.SetReadDeadline(time.Now().Add(patient))
		if _, err := io.ReadFull(c, got); err != nil {
			return err
		}
		if !bytes.Equal(got, data[me.heard:me.heard+st.n]) {
			return errors.New("read other bytes")
		}
		return nil
	case halfClose:
		return c.CloseWrite()
	case closeAll:
		return c.Close()
	default:
		reset(c)
		return nil
	}
}

// agrees reports how a socket differs from what is expected, or "".
func agrees(c net.Conn, want side) string {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err.Error()
	}
	diff := ""
	raw.Control(func(fd uintptr) {
		n, _ := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		unix.Poll(set, 0)
		// SIOCINQ counts the end as a byte in some states, and none after a
		// reset; what is there is compared when it is read.
		if !want.ended && !want.broken && n != want.unread {
			diff = fmt.Sprintf("%d bytes unread, want %d", n, want.unread)
		}
		if got := set[0].Revents&unix.POLLRDHUP != 0; got != (want.ended || want.broken) {
			diff = fmt.Sprintf("ended is %v, want %v", got, !got)
		}
		if got := set[0].Revents&unix.POLLERR != 0; got != want.broken {
			diff = fmt.Sprintf("reset is %v, want %v", got, !got)
		}
	})
	return diff
}

// fataler is what *testing.T and *rapid.T have in common here.
type fataler interface {
	Fatalf(format string, args ...any)
}

// settleAs waits until the open sockets are as expected.
func settleAs(t fataler, what string, ends [2]peer, want [2]side) {
	deadline := time.Now().Add(patient)
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for i := range ends {
		for !want[i].closed {
			diff := agrees(ends[i], want[i])
			if diff == "" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s, %s: %s", what, []string{"client", "server"}[i], diff)
			}
			<-tick.C
		}
	}
}

// lastWords reads what is left at an end and compares how it ends.
func lastWords(t fataler, what string, c peer, want side, data []byte) {
	c.SetReadDeadline(time.Now().Add(patient))
	rest, err := io.ReadAll(c)
	if !bytes.Equal(rest, data[want.heard:want.heard+want.unread]) {
		t.Fatalf("%s: read %d bytes at last, want %d", what, len(rest), want.unread)
	}
	if want.ended && err != nil || !want.ended && !isReset(err) {
		t.Fatalf("%s: the last bytes are followed by %v, want an end: %v", what, err, want.ended)
	}
}

// play runs a script on a pair of ends and compares with what tcp(7) says.
func play(t fataler, what string, script []step, ends [2]peer, data []byte) {
	var s [2]side
	for i, st := range script {
		if err := perform(st, &s, ends, data); err != nil {
			t.Fatalf("%s, step %d of %v: %v", what, i, script, err)
		}
		apply(st, &s)
		settleAs(t, fmt.Sprintf("%s, after step %d of %v", what, i, script), ends, s)
	}
	for i, c := range ends {
		if !s[i].closed && (s[i].ended || s[i].broken) {
			lastWords(t, fmt.Sprintf("%s, %v", what, script), c, s[i], data)
		}
	}
}

// Any conversation looks the same through a relay as on a direct connection:
// which bytes are there, whether an end or a reset is seen, and in which order.
func TestScriptsLookLikeDirect(t *testing.T) {
	leakFree(t)
	data := pattern(1 << 20)
	rapid.Check(t, func(rt *rapid.T) {
		var s [2]side
		var script []step
		for n := rapid.IntRange(1, 12).Draw(rt, "steps"); len(script) < n && (!s[0].closed || !s[1].closed); {
			st := drawStep(rt, &s)
			apply(st, &s)
			script = append(script, st)
		}
		direct := bare(t)
		play(rt, "direct", script, direct, data)
		closeBoth(direct)

		g := newScriptRig(t)
		ends := [2]peer{g.client, g.server}
		play(rt, "through the relay", script, ends, data)
		closeBoth(ends)
		<-g.done
	})
}

// bare returns the ends of a direct connection, and does not burden the test
// with cleanups: there are many.
func bare(t *testing.T) [2]peer {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return [2]peer{d.(peer), a.(peer)}
}

// newScriptRig is newRig without cleanups, and with a relay that is past its
// first byte: before that a reset is no reset but another try.
func newScriptRig(t *testing.T) *rig {
	g := &rig{done: make(chan outcome, 1), w: newWires(0)}
	in, out := bare(t), bare(t)
	g.client, g.server = in[0], out[1]
	var err error
	if g.r, err = newRelay(g.w, in[1], out[0], g.release, g.end); err != nil {
		t.Fatal(err)
	}
	g.r.toDown.moved.Add(1)
	g.r.start()
	return g
}

func closeBoth(ends [2]peer) {
	for _, c := range ends {
		reset(c)
	}
}

// Without a pause between the steps the outcome is open, the laws are not:
// what is read is a beginning of what was sent, all of it if the sender ended
// cleanly and the reader was not reset, and a truncation never looks clean.
func TestScriptsInAHurry(t *testing.T) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			leakFree(t)
			data := pattern(4 << 20)
			rapid.Check(t, func(rt *rapid.T) {
				size := rapid.OneOf(rapid.IntRange(1, 100), rapid.IntRange(1, 4<<20)).Draw(rt, "bytes")
				chunk := rapid.OneOf(rapid.IntRange(1000, 5000), rapid.IntRange(5000, 300_000)).Draw(rt, "chunk")
				how := rapid.SampledFrom([]action{halfClose, closeAll, resetAll}).Draw(rt, "end")
				down := rapid.Bool().Draw(rt, "down")
				g := newRig(t, n.client, n.server, nil)
				from, to := g.client, g.server
				if down {
					from, to = to, from
				}
				told := make(chan int, 1)
				go hurry(from, data[:size], chunk, how, told)
				to.SetReadDeadline(time.Now().Add(patient))
				got, err := io.ReadAll(to)
				sent := <-told
				if len(got) > sent || !bytes.Equal(got, data[:len(got)]) {
					rt.Fatalf("%d bytes read, %d sent, a beginning: false", len(got), sent)
				}
				if how != resetAll && (err != nil || len(got) != sent) {
					rt.Fatalf("%d of %d bytes read, then %v", len(got), sent, err)
				}
				if how == resetAll && n.client == "tcp" && n.server == "tcp" && !isReset(err) {
					rt.Fatalf("%d of %d bytes read, then %v, want a reset", len(got), sent, err)
				}
				to.Close()
				from.Close()
				<-g.done
			})
		})
	}
}

// hurry sends and ends as told.
func hurry(c peer, data []byte, chunk int, how action, told chan<- int) {
	sent := 0
	for len(data) > 0 {
		n, err := c.Write(data[:min(chunk, len(data))])
		sent += n
		data = data[n:]
		if err != nil {
			break
		}
	}
	switch how {
	case halfClose:
		c.CloseWrite()
	case closeAll:
		c.Close()
	case resetAll:
		reset(c)
	}
	told <- sent
}
