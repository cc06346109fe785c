//go:build linux

package soak

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// manners is what a child does beside serving. It travels as JSON on the
// child's command line.
type manners struct {
	Listen  string
	Journal string        // where it tells what it does to itself
	Leader  string        // the process that started it, if it is a grandchild
	Nest    bool          // a grandchild serves; the child looks after it
	Start   time.Duration // from exec to listen, at most
	Stop    time.Duration // from SIGTERM to the end, at most
	Deaf    bool          // SIGTERM is ignored
	Seed    uint64        // of its accidents
	Fail    float64       // share of starts that fail
	Crash   float64       // share of requests that crash it
}

// The protocol: a request is one line, an ask as JSON, and Up bytes of the
// stream that its seed names. The answer is a line with the process that serves
// and its leader, at once; Down bytes of another stream; and, when all of the
// request has arrived, a line with its length and hash. Then comes the next one.
type ask struct {
	Up, Down int64
	Seed     uint64
}

// The two streams of a seed.
func (a ask) upStream() io.Reader   { return stream(a.Seed) }
func (a ask) downStream() io.Reader { return stream(^a.Seed) }

func stream(seed uint64) io.Reader {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return rand.NewChaCha8(key)
}

// What a child writes into its journal before it does it: kind, moment, itself,
// its leader, and the seed of the request if there is one.
const (
	journalStart = "start"
	journalTook  = "took"
	journalOdd   = "odd" // a request that is none
	journalCrash = "crash"
	journalFail  = "fail"
)

// playRole is the main of the child.
func playRole(words []string) int {
	var m manners
	if len(words) != 1 || json.Unmarshal([]byte(words[0]), &m) != nil {
		return 2
	}
	terms := make(chan os.Signal, 8)
	signal.Notify(terms, syscall.SIGTERM)
	me, _ := readProcess(os.Getpid())
	if m.Leader == "" {
		m.Leader = me.ident.String()
		if m.Nest {
			return lead(m, terms)
		}
	}
	s := &server{manners: m, me: me.ident}
	s.write(journalStart, 0)
	s.luck = rand.New(rand.NewPCG(m.Seed, s.lives()))
	if s.luck.Float64() < m.Fail {
		s.write(journalFail, 0)
		return 3
	}
	pause(m.Start)
	l, err := net.Listen("tcp", m.Listen)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak child:", err)
		return 1
	}
	go s.accept(l)
	for range terms {
		if m.Deaf {
			continue
		}
		// Some programs close their listener at once, some never.
		if rand.IntN(2) == 0 {
			l.Close()
		}
		pause(m.Stop)
		return 0
	}
	return 1
}

// pause takes up to limit.
func pause(limit time.Duration) {
	if limit > 0 {
		<-time.After(rand.N(limit))
	}
}

// lead keeps one grandchild running until SIGTERM comes, which reaches the
// grandchild, too. A grandchild that fails on its own account ends both.
func lead(m manners, terms <-chan os.Signal) int {
	m.Nest = false
	words, err := json.Marshal(m)
	if err != nil {
		return 2
	}
	for {
		cmd := exec.Command(self0(), "role", string(words))
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(os.Stderr, "soak child:", err)
			return 1
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-terms:
			<-ended
			return 0
		case <-ended:
		}
		if code := cmd.ProcessState.ExitCode(); code > 0 {
			return code
		}
		select {
		case <-terms:
			return 0
		default:
		}
	}
}

func self0() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

type server struct {
	manners
	me ident

	mu   sync.Mutex
	luck *rand.Rand // guarded by mu once there are clients
}

// lives is how many starts the journal knows of: the n-th has the n-th luck.
func (s *server) lives() uint64 {
	text, err := os.ReadFile(s.Journal)
	if err != nil {
		return 0
	}
	return uint64(bytes.Count(text, []byte(journalStart)))
}

// crashes decides whether a request is the last.
func (s *server) crashes() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.luck.Float64() < s.Crash
}

// write puts a line into the journal, which is the file system's as soon as
// write(2) returns: what happens to this process then does not matter.
func (s *server) write(kind string, seed uint64) {
	if s.Journal == "" {
		return
	}
	f, err := os.OpenFile(s.Journal, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%s %d %v %s %d\n", kind, int64(now()), s.me, s.Leader, seed)
}

func (s *server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go s.serve(c.(*net.TCPConn))
	}
}

func (s *server) serve(c *net.TCPConn) {
	defer c.Close()
	for in := bufio.NewReaderSize(c, 64<<10); ; {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var a ask
		if json.Unmarshal(line, &a) != nil {
			s.write(journalOdd, 0)
			return
		}
		s.write(journalTook, a.Seed)
		if err := s.answer(c, in, a, s.crashes()); err != nil {
			return
		}
	}
}

func (s *server) answer(c *net.TCPConn, in io.Reader, a ask, crash bool) error {
	if _, err := fmt.Fprintf(c, "%v %s\n", s.me, s.Leader); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		down := a.Down
		if crash {
			down /= 2
		}
		_, err := io.CopyN(c, a.downStream(), down)
		sent <- err
	}()
	hash := sha256.New()
	n, err := io.CopyN(hash, in, a.Up)
	if crash {
		s.write(journalCrash, a.Seed)
		os.Exit(4)
	}
	if err == nil {
		err = <-sent
	}
	if err == nil {
		_, err = fmt.Fprintf(c, "%d %x\n", n, hash.Sum(nil))
	}
	return err
}
