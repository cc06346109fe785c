//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	megabyte = 1_000_000
	bulk     = 50 * megabyte
	tail     = 4_000_000 // more than fits into one socket's buffers
)

// lateAnswer: the client has said all it has to say, and the answer takes a second.
func lateAnswer(ctx context.Context, s *stand) (verdict, error) {
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	c, err := s.asking(ctx, fmt.Sprintf("late %d", megabyte))
	if err != nil {
		return verdict{}, err
	}
	defer c.Close()
	if err := c.CloseWrite(); err != nil {
		return verdict{}, err
	}
	n, err := c.readAll()
	return whole(n, megabyte, err), nil
}

// whole is the verdict on an answer that should have n bytes and a clean end.
func whole(got, want int64, err error) verdict {
	if got == want && err == nil {
		return okay("whole answer")
	}
	if got == want && told(err) == "nothing" {
		return bad("whole, but no end")
	}
	if got == want {
		return bad("whole, then %s", told(err))
	}
	return bad("%s of %s, %s", size(got), size(want), told(err))
}

func size(n int64) string {
	switch {
	case n == 0:
		return "nothing"
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < megabyte:
		return fmt.Sprintf("%d kB", n/1000)
	default:
		return fmt.Sprintf("%.3g MB", float64(n)/megabyte)
	}
}

// bulkAfterEnd: each direction carries its bulk when the other has ended already.
func bulkAfterEnd(ctx context.Context, s *stand) (verdict, error) {
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	down, err := s.bulkDown(ctx)
	if err != nil || !down.ok {
		return down, err
	}
	return s.bulkUp(ctx)
}

// bulkDown sends, half-closes, and is answered as much.
func (s *stand) bulkDown(ctx context.Context) (verdict, error) {
	c, err := s.asking(ctx, fmt.Sprintf("tally %d", bulk))
	if err != nil {
		return verdict{}, err
	}
	defer c.Close()
	sent := sha256.New()
	if _, err := io.Copy(c, io.TeeReader(stream(bulk), sent)); err != nil {
		return bad("client cannot send: %s", told(err)), nil
	}
	if err := c.CloseWrite(); err != nil {
		return bad("client cannot send: %s", told(err)), nil
	}
	line, err := c.hear()
	if err != nil {
		return bad("no answer after client's end"), nil
	}
	if want := fmt.Sprintf("%d %x", bulk, sent.Sum(nil)); line != want {
		return bad("server got other bytes"), nil
	}
	return exact(c, bulk), nil
}

// exact checks that the rest of a connection is the first n bytes of stream.
func exact(c *client, n int64) verdict {
	got, want := sha256.New(), sha256.New()
	length, err := io.Copy(got, c.in)
	_, _ = io.Copy(want, stream(int(n)))
	if length == n && err == nil && !slices.Equal(got.Sum(nil), want.Sum(nil)) {
		return bad("other bytes than sent")
	}
	return whole(length, n, err)
}

// bulkUp sends to a server that has ended its own direction.
func (s *stand) bulkUp(ctx context.Context) (verdict, error) {
	c, err := s.asking(ctx, "first 1000")
	if err != nil {
		return verdict{}, err
	}
	defer c.Close()
	if n, err := c.readAll(); n != 1000 || err != nil {
		return bad("server's end: %s, %s", size(n), told(err)), nil
	}
	sent := sha256.New()
	n, err := io.Copy(c, io.TeeReader(stream(bulk), sent))
	if err == nil {
		err = c.CloseWrite()
	}
	if err != nil {
		return bad("%s after server's end", told(err)), nil
	}
	want := fmt.Sprintf("%d %x clean end", n, sent.Sum(nil))
	if got := s.note(ctx, "first", 5*time.Second); got != want {
		words := strings.Fields(got + " 0")
		reached, _ := strconv.ParseInt(words[0], 10, 64)
		return bad("%s of %s after server's end", size(reached), size(bulk)), nil
	}
	return okay("exact"), nil
}

// serverResets: a truncated answer must not look like a whole one.
func serverResets(ctx context.Context, s *stand) (verdict, error) {
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	c, err := s.asking(ctx, "reset 1000")
	if err != nil {
		return verdict{}, err
	}
	defer c.Close()
	if _, err := io.CopyN(io.Discard, c.in, 1000); err != nil {
		return verdict{}, fmt.Errorf("read what comes before the reset: %w", err)
	}
	if err := c.say("now"); err != nil {
		return verdict{}, err
	}
	c.bound(5 * time.Second)
	_, err = c.readAll()
	return mustBeReset(told(err), "client"), nil
}

func mustBeReset(how, who string) verdict {
	return verdict{how == "reset", who + " sees " + how}
}

// clientResets is the same in the other direction.
func clientResets(ctx context.Context, s *stand) (verdict, error) {
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	c, err := s.opened(ctx)
	if err != nil {
		return verdict{}, err
	}
	defer c.Close()
	if answer, err := c.ask("watch"); err != nil || answer != "watching" {
		return verdict{}, fmt.Errorf("ask for a watch: %q, %w", answer, err)
	}
	c.SetLinger(0)
	c.Close()
	how := s.note(ctx, "watch", 5*time.Second)
	if how == "" {
		how = "nothing"
	}
	return mustBeReset(how, "server"), nil
}

// endUnderInput: the server has answered and ended its direction while the
// client still sends: closing now would send a reset, which destroys the rest
// of the answer on its way.
func endUnderInput(ctx context.Context, s *stand) (verdict, error) {
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	c, err := s.asking(ctx, fmt.Sprintf("give %d", tail))
	if err != nil {
		return verdict{}, err
	}
	defer c.Close()
	stop := make(chan struct{})
	defer close(stop)
	go chatter(c, stop)
	if !pause(ctx, time.Second) {
		return verdict{}, ctx.Err()
	}
	c.bound(6 * time.Second)
	n, err := c.readAll()
	return whole(n, tail, err), nil
}

// chatter sends small pieces until it cannot or need not any more.
func chatter(c *client, stop <-chan struct{}) {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		select {
		case <-stop:
			return
		case <-again.C:
		}
		if _, err := c.Write(make([]byte, 100)); err != nil {
			return
		}
	}
}

// lastWords: the server process ends right after its answer; the client takes
// its time.
func lastWords(ctx context.Context, s *stand) (verdict, error) {
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	c, err := s.asking(ctx, fmt.Sprintf("last %d", tail))
	if err != nil {
		return verdict{}, err
	}
	defer c.Close()
	if !pause(ctx, time.Second) {
		return verdict{}, ctx.Err()
	}
	c.bound(6 * time.Second)
	n, err := c.readAll()
	return whole(n, tail, err), nil
}

// halfClosedPile: clients that half-closed and then were reset must not stay.
func halfClosedPile(ctx context.Context, s *stand) (verdict, error) {
	const pile = 20
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	warm, err := s.opened(ctx)
	if err != nil {
		return verdict{}, err
	}
	defer warm.Close()
	before := s.cost().descriptors
	all, err := s.crowd(ctx, pile)
	if err != nil {
		return verdict{}, err
	}
	defer disperse(all)
	for _, c := range all {
		if err := errors.Join(c.say("hold"), c.CloseWrite()); err != nil {
			return verdict{}, err
		}
	}
	if !pause(ctx, time.Second) {
		return verdict{}, ctx.Err()
	}
	if gone := ended(all); gone > 0 {
		return bad("cut %d of %d itself", gone, pile), nil
	}
	return s.pileEnds(ctx, all, before)
}

// ended counts clients whose connection was ended on them.
func ended(all []*client) int {
	n := 0
	for _, c := range all {
		c.bound(time.Millisecond)
		if _, err := c.in.ReadByte(); err != nil && told(err) != "nothing" {
			n++
		}
	}
	return n
}

func (s *stand) pileEnds(ctx context.Context, all []*client, before int) (verdict, error) {
	begin := time.Now()
	for _, c := range all {
		c.SetLinger(0)
		c.Close()
	}
	left := 0
	err := poll(ctx, 5*time.Second, func() error {
		if left = s.cost().descriptors - before; left > 4 {
			return errors.New("descriptors are still held")
		}
		return nil
	})
	return verdict{err == nil, pileText(err == nil, left, time.Since(begin))}, nil
}

func pileText(gone bool, left int, took time.Duration) string {
	if gone {
		return "gone in " + short(took)
	}
	return fmt.Sprintf("%d descriptors after %s", left, short(took))
}

// slowReaders: as many connections are stuck in each direction.
func slowReaders(ctx context.Context, s *stand) (verdict, error) {
	const each = 10
	if err := s.up(ctx); err != nil {
		return verdict{}, err
	}
	stuck, err := s.crowd(ctx, 2*each)
	if err != nil {
		return verdict{}, err
	}
	defer disperse(stuck)
	before := s.cost().memory
	for i, c := range stuck {
		if i%2 == 0 {
			err = c.say("flood")
		} else if err = c.say("deaf"); err == nil {
			go fill(c)
		}
		if err != nil {
			return verdict{}, err
		}
	}
	if !pause(ctx, 1500*time.Millisecond) {
		return verdict{}, ctx.Err()
	}
	grown := max(0, s.cost().memory-before)
	took, _, err := s.served(ctx, 5*time.Second)
	if err != nil {
		return bad("another client: %s", told(err)), nil
	}
	return verdict{took < time.Second && grown < 2*each*256<<10,
		fmt.Sprintf("another served in %s, +%d kB", short(took), grown/1000)}, nil
}

// fill sends until nothing more fits; the client's end ends it.
func fill(c *client) { _, _ = io.Copy(c, stream(1<<40)) }
