//go:build linux

package soak

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The time limits that tiproxy runs with.
const (
	idleTime     = 300 * time.Millisecond
	startTimeout = 20 * time.Second // also how long a client is held for a child that takes nobody
	stopTimeout  = 2 * time.Second
	drainTimeout = 2 * time.Second
	tailTime     = 2 * time.Second // what the last bytes get when tiproxy stops
)

// The ports, in networks of their own.
const (
	bindPort = "4000"
	destAddr = "127.0.0.1:3000"
)

// at is where clients connect who see tiproxy's machine as host.
func at(host string) string { return net.JoinHostPort(host, bindPort) }

// proxy is a tiproxy that runs, or ran.
type proxy struct {
	cmd  *exec.Cmd
	mark string         // in the environment of everything that it starts
	seen map[ident]bool // what was ever seen below it
	done chan struct{}  // closed when it has ended
	log  *logbook
	read sync.WaitGroup // the readers of its two streams
}

// pathFlags choose the path that SOAK_PATH names: tiproxy's own choice without it.
func pathFlags() []string {
	if path := os.Getenv(pathVariable); path != "" {
		return []string{"--path", path}
	}
	return nil
}

// launch starts a tiproxy in s and waits until it listens. command is the child.
func launch(s *space, mark string, command []string) (*proxy, error) {
	p := &proxy{mark: fmt.Sprintf("SOAK_MARK=%d.%s", os.Getpid(), mark), seen: map[ident]bool{}, done: make(chan struct{}), log: newLogbook()}
	line := append([]string{
		"--bind", ":" + bindPort, "--dest", destAddr, "--exec", command[0], "--idle", idleTime.String(),
		"--start-timeout", startTimeout.String(), "--stop-timeout", stopTimeout.String(),
		"--drain-timeout", drainTimeout.String(), "--log-format", "json", "--log-level", "debug",
	}, pathFlags()...)
	line = append(append(line, "--"), command[1:]...)
	p.cmd = exec.Command(binary, line...)
	// The race detector would hold up every end for a second (atexit_sleep_ms).
	p.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "GOTRACEBACK=all", p.mark)
	if err := p.start(s); err != nil {
		return nil, err
	}
	select {
	case <-p.log.listening:
		return p, nil
	case <-p.done:
	case <-time.After(bound):
	}
	p.end(syscall.SIGKILL, bound)
	return nil, fmt.Errorf("tiproxy did not come to listen: %s", p.log.tail(2000))
}

func (p *proxy) start(s *space) error {
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	defer outWrite.Close()
	errRead, errWrite, err := os.Pipe()
	if err != nil {
		outRead.Close()
		return err
	}
	defer errWrite.Close()
	p.cmd.Stdout, p.cmd.Stderr = outWrite, errWrite
	err = s.start(p.cmd)
	p.read.Go(func() { p.drain(outRead) })
	p.read.Go(func() { p.log.feed(errRead) })
	if err != nil {
		return err
	}
	go p.reap()
	return nil
}

// drain reads the child's stdout: nobody wants it, but it must not stand still.
func (p *proxy) drain(r io.ReadCloser) {
	defer r.Close()
	_, _ = io.Copy(io.Discard, r)
}

func (p *proxy) reap() {
	_ = wait(p.cmd) // how it ended is in ProcessState
	close(p.done)
}

func (p *proxy) pid() int { return p.cmd.Process.Pid }

// tree is what is below tiproxy now, the dead included. All of it is
// remembered, to be looked for in the end.
func (p *proxy) tree() []process {
	all := descendants(p.pid())
	for _, q := range all {
		p.seen[q.ident] = true
	}
	return all
}

// children are the living processes of the child's tree, the child first.
// tiproxy's own helpers, which run its own program, are none.
func (p *proxy) children() []process {
	var found []process
	for _, q := range p.tree() {
		if q.state != 'Z' && q.exe() != binary && q.exe() != "" {
			found = append(found, q)
		}
	}
	return found
}

// asleep waits until not one process is below tiproxy, and returns who is
// when limit is over.
func (p *proxy) asleep(limit time.Duration) (left []process) {
	poll(limit, func() bool {
		left = p.tree()
		return len(left) == 0
	})
	return left
}

// end sends a signal that ends tiproxy, waits for that, and reports whether it
// came within limit. Whoever is late is killed.
func (p *proxy) end(sig syscall.Signal, limit time.Duration) bool {
	p.tree()
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
		return true
	case <-time.After(limit):
	}
	_ = p.cmd.Process.Kill()
	<-p.done
	return false
}

// gone waits until nothing is left of what tiproxy ever started: by the mark
// that it all has inherited, and by name for those that overwrote it. It
// returns who lives when limit is over.
func (p *proxy) gone(limit time.Duration) (left []process) {
	poll(limit, func() bool {
		left = left[:0]
		reapOrphans()
		for _, q := range allProcesses() {
			if q.pid != p.pid() && q.state != 'Z' && (p.seen[q.ident] || q.hasEnv(p.mark)) {
				left = append(left, q)
			}
		}
		return len(left) == 0
	})
	return left
}

// poll asks again and again what has no event; false when limit is over.
func poll(limit time.Duration, holds func() bool) bool {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for began := now(); ; <-again.C {
		if holds() {
			return true
		}
		if began.since() > limit {
			return false
		}
	}
}

// limitFiles sets the soft limit of tiproxy's descriptors and returns the old one.
func (p *proxy) limitFiles(soft uint64) (old uint64, err error) {
	var was unix.Rlimit
	if err := unix.Prlimit(p.pid(), unix.RLIMIT_NOFILE, nil, &was); err != nil {
		return 0, err
	}
	return was.Cur, unix.Prlimit(p.pid(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: soft, Max: was.Max}, nil)
}

// entry is one line of tiproxy's log.
type entry struct {
	Level, Msg string
	line       string
	at         moment // when it was read
}

// logbook collects what comes out of tiproxy's stderr.
type logbook struct {
	listening chan struct{} // closed when tiproxy has said so

	mu     sync.Mutex
	raw    strings.Builder
	counts map[string]int // of messages
	grave  []entry        // warnings, errors and worse
}

func newLogbook() *logbook {
	return &logbook{listening: make(chan struct{}), counts: map[string]int{}}
}

// feed reads r to its end, which comes when the last process that holds the
// other side has closed it.
func (b *logbook) feed(r io.ReadCloser) {
	defer r.Close()
	for lines := bufio.NewReader(r); ; {
		line, err := lines.ReadString('\n')
		b.add(line)
		if err != nil {
			return
		}
	}
}

// worse is what no log line is, and the runtime or the race detector print.
var worse = []string{"WARNING: DATA RACE", "panic:", "fatal error:", "runtime error"}

func (b *logbook) add(line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.raw.WriteString(line)
	for _, bad := range worse {
		if strings.Contains(line, bad) {
			b.grave = append(b.grave, entry{Level: "PANIC", Msg: bad, line: strings.TrimSpace(line), at: now()})
		}
	}
	at := strings.Index(line, `{"time":`) // also behind a piece of the child's output
	if at < 0 {
		return
	}
	e := entry{line: strings.TrimSpace(line[at:]), at: now()}
	if json.Unmarshal([]byte(e.line), &e) != nil {
		return
	}
	if b.counts[e.Msg]++; e.Msg == "listening" && b.counts[e.Msg] == 1 {
		close(b.listening)
	}
	if e.Level == "WARN" || e.Level == "ERROR" {
		b.grave = append(b.grave, e)
	}
}

func (b *logbook) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.raw.String()
}

// mentioning returns the lines that hold text.
func (b *logbook) mentioning(text string) string {
	var found strings.Builder
	for line := range strings.Lines(b.text()) {
		if text != "" && strings.Contains(line, text) {
			found.WriteString(line)
		}
	}
	return found.String()
}

// tail is the end of the text, without what Go's runtime prints for SIGQUIT.
func (b *logbook) tail(most int) string {
	text, _, _ := strings.Cut(b.text(), "SIGQUIT: quit")
	if len(text) > most {
		return "…" + text[len(text)-most:]
	}
	return text
}

// toldOf is when tiproxy told of the first end of a child, or of a start that
// failed, from a moment on; 0: it did not.
func (b *logbook) toldOf(from moment) moment {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.grave {
		if e.at >= from && isEnd(e) {
			return e.at
		}
	}
	return 0
}

// isEnd is true for what tiproxy says of a child that ended unasked.
func isEnd(e entry) bool { return e.Msg == "closed" || e.Msg == "start failed" }
