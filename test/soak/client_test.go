//go:build linux

package soak

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// habit is how a client behaves. All but those that leave are honest: they
// want to be served to the end.
type habit int

const (
	short   habit = iota // asks one small thing
	long                 // asks small things, with pauses
	half                 // half-closes behind its request and reads to the end
	slow                 // reads slowly, with a small window
	silent               // says nothing for a while
	bulk                 // moves much in both directions
	leaving              // resets its connection somewhere on the way
	habits
)

func (h habit) String() string {
	return [habits]string{"short", "long", "half-closing", "slow", "silent", "bulk", "leaving"}[h]
}

// visit is the plan of one client.
type visit struct {
	number int
	at     time.Duration // after the round's beginning
	far    bool          // over the link
	habit  habit
	asks   []ask
	pause  time.Duration // before every ask but the first; silent: before the first, too
	leave  float64       // leaving: the share of its answer that it waits for, 0: it says nothing
}

func (v visit) String() string {
	where := "near"
	if v.far {
		where = "far"
	}
	return fmt.Sprintf("client %d (%s, %v)", v.number, where, v.habit)
}

// ending is what became of a client.
type ending int

const (
	served   ending = iota // byte for byte
	left                   // by its own reset
	refused                // nobody took its connection
	cut                    // its connection ended early
	stranded               // neither served nor told, within patience
	wronged                // it got bytes that nobody sent, or the server did
)

func (e ending) String() string {
	return [...]string{"served", "left", "refused", "cut", "stranded", "wronged"}[e]
}

// outcome is what a client has to tell.
type outcome struct {
	visit
	local          string // its own address
	from, to       moment
	ending         ending
	err            error
	server, leader ident  // who answered it last, or read its request
	seen           bool   // tiproxy has logged its connection
	answered       moment // when the first answer began; 0: never
	up, down       int64  // confirmed bytes
	lost, wrong    int64
}

func (o outcome) String() string {
	return fmt.Sprintf("%v %s, %v until %v: %v, server %v of %v: %v", o.visit, o.local, o.from, o.to, o.ending, o.server, o.leader, o.err)
}

// waited is how long it was there before its first answer began.
func (o outcome) waited() time.Duration {
	if o.answered == 0 {
		return 0
	}
	return time.Duration(o.answered - o.from)
}

// client is one that is there.
type client struct {
	outcome
	space    *space
	address  string
	patience time.Duration
	redis    bool // it speaks redis-server's language
	conn     *net.TCPConn
	in       *bufio.Reader
}

// errWrong marks an answer that is not the server's.
var errWrong = errors.New("wrong bytes")

// come is the whole life of a client.
func (c *client) come() outcome {
	c.from = now()
	err := c.connect()
	if err == nil {
		c.local = c.conn.LocalAddr().String()
		err = c.talk()
		c.conn.Close()
	}
	c.to, c.err = now(), err
	switch {
	case err == nil && c.habit == leaving && !c.redis:
		c.ending = left
	case err == nil:
		c.ending = served
	case errors.Is(err, errWrong):
		c.ending = wronged
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		c.ending = stranded
	case errors.Is(err, syscall.ECONNREFUSED):
		c.ending = refused
	default:
		c.ending = cut
	}
	return c.outcome
}

// connect tries again while this machine has no way to the other one, which is
// nobody's refusal.
func (c *client) connect() error {
	ctx, cancel := context.WithTimeout(context.Background(), c.patience)
	defer cancel()
	for {
		conn, err := c.space.dial(ctx, c.address)
		if err == nil {
			c.conn = conn
			return nil
		}
		if !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETDOWN) {
			var slow net.Error
			if errors.As(err, &slow) && slow.Timeout() {
				return fmt.Errorf("connect: %w", os.ErrDeadlineExceeded)
			}
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *client) talk() error {
	if c.habit == slow {
		_ = c.conn.SetReadBuffer(16 << 10)
	}
	c.in = bufio.NewReaderSize(c.conn, 16<<10)
	if c.habit == leaving && !c.redis {
		return c.depart()
	}
	exchange := c.exchange
	if c.redis {
		exchange = c.askRedis
	}
	for i, a := range c.asks {
		if i > 0 || c.habit == silent {
			<-time.After(c.pause)
		}
		if err := exchange(a); err != nil {
			return err
		}
	}
	if c.habit != half {
		return nil
	}
	if c.redis {
		if err := c.conn.CloseWrite(); err != nil {
			return err
		}
	}
	c.hurry()
	if n, err := io.Copy(io.Discard, c.in); err != nil || n > 0 {
		if n > 0 {
			c.wrong += n
			err = fmt.Errorf("%d bytes behind the end: %w", n, errWrong)
		}
		return err
	}
	return nil
}

// hurry gives the next read as long as a client waits.
func (c *client) hurry() { c.conn.SetReadDeadline(time.Now().Add(c.patience)) }

// exchange asks and checks the answer.
func (c *client) exchange(a ask) error {
	c.lost += a.Down + a.Up // until it has arrived
	sent := make(chan error, 1)
	go func() { sent <- c.send(a) }()
	err := c.receive(a)
	if err != nil {
		c.conn.Close() // the sender has no reason to go on
	}
	if sendErr := <-sent; err == nil && sendErr != nil {
		err = sendErr
	}
	return err
}

// send writes the request. Its errors say less than the reader's.
func (c *client) send(a ask) error {
	head, err := json.Marshal(a)
	if err != nil {
		return err
	}
	head = append(head, '\n')
	if err := c.sendAll(bytes.NewReader(head), int64(len(head))); err != nil {
		return err
	}
	if err := c.sendAll(a.upStream(), a.Up); err != nil {
		return err
	}
	if c.habit == half {
		return c.conn.CloseWrite()
	}
	return nil
}

// sendAll writes n bytes of src, with patience for every piece.
func (c *client) sendAll(src io.Reader, n int64) error {
	buf := make([]byte, 32<<10)
	for left := n; left > 0; {
		part := buf[:min(left, int64(len(buf)))]
		if _, err := io.ReadFull(src, part); err != nil {
			return err
		}
		c.conn.SetWriteDeadline(time.Now().Add(c.patience))
		if _, err := c.conn.Write(part); err != nil {
			return err
		}
		left -= int64(len(part))
	}
	return nil
}

func (c *client) receive(a ask) error {
	c.hurry()
	who, err := c.in.ReadString('\n')
	if err != nil {
		return err
	}
	if c.answered == 0 {
		c.answered = now()
	}
	if err := c.note(who); err != nil {
		return err
	}
	if err := c.compare(a.downStream(), a.Down, func(n int64) { c.down += n; c.lost -= n }); err != nil {
		return err
	}
	c.hurry()
	receipt, err := c.in.ReadString('\n')
	if err != nil {
		return err
	}
	hash := sha256.New()
	if _, err := io.CopyN(hash, a.upStream(), a.Up); err != nil {
		return err
	}
	if want := fmt.Sprintf("%d %x\n", a.Up, hash.Sum(nil)); receipt != want {
		c.wrong += a.Up
		return fmt.Errorf("the server got %q, want %q: %w", receipt, want, errWrong)
	}
	c.up += a.Up
	c.lost -= a.Up
	return nil
}

// note reads who serves it.
func (c *client) note(line string) (err error) {
	server, leader, _ := strings.Cut(strings.TrimSpace(line), " ")
	if c.server, err = parseIdent(server); err == nil {
		c.leader, err = parseIdent(leader)
	}
	if err != nil {
		c.wrong += int64(len(line))
		return fmt.Errorf("the answer begins with %q: %w", line, errWrong)
	}
	return nil
}

// compare reads n bytes, which must be those of want, and says how many arrived.
func (c *client) compare(want io.Reader, n int64, arrived func(int64)) error {
	got, expected := make([]byte, 16<<10), make([]byte, 16<<10)
	for n > 0 {
		c.hurry()
		k, err := c.in.Read(got[:min(n, int64(len(got)))])
		if _, err := io.ReadFull(want, expected[:k]); err != nil {
			return err
		}
		if !bytes.Equal(got[:k], expected[:k]) {
			for i := range k {
				if got[i] != expected[i] {
					c.wrong++
				}
			}
			return errWrong
		}
		n -= int64(k)
		if c.answered == 0 && k > 0 {
			c.answered = now()
		}
		arrived(int64(k))
		if err != nil {
			return err
		}
		if c.habit == slow {
			<-time.After(c.pause)
		}
	}
	return nil
}

// depart resets the connection somewhere on the way. What happens to such a
// client before is nobody's loss, unless it is left without any word.
func (c *client) depart() error {
	defer c.conn.SetLinger(0)
	a := c.asks[0]
	if c.leave == 0 {
		return nil
	}
	sent := make(chan error, 1)
	go func() { sent <- c.send(a) }()
	c.hurry()
	_, err := io.CopyN(io.Discard, c.in, int64(c.leave*float64(a.Down)))
	c.conn.SetWriteDeadline(time.Unix(1, 0))
	<-sent
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}
