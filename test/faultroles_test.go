//go:build linux

package e2e

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// faultRoles are servers that are unlucky, slow or wrong. They get the words
// behind their name, and serve until the process is told to end.
var faultRoles = map[string]func(words []string){
	"fails":    fails,    // FILE: ends with status 3 when the file exists
	"late":     late,     // ADDR FILE: an echo that listens when the file exists
	"counts":   counts,   // ADDR: an echo that tells connections with bytes from empty ones
	"moody":    moody,    // ADDR DURATION: resets who comes before that, then greets and is an echo
	"unlucky":  unlucky,  // ADDR FILE: dies with its first client unless the file exists, which it makes
	"where":    where,    // ADDR,ADDR…: answers a line with the address it came to
	"answers":  answers,  // ADDR: "ask N" is answered with N bytes once the client has half-closed
	"speaks":   speaks,   // ADDR N: sends N bytes, half-closes, and says what it heard until the end
	"resets":   resets,   // ADDR: "reset" gets 1000 bytes and a reset, "watch" is watched for its end
	"dumps":    dumps,    // ADDR N: sends N bytes to its first client and ends with status 0
	"holds":    holds,    // ADDR: takes connections and never does anything with them
	"homeward": homeward, // ADDR: an echo that ends with status 0 when its last client has left
	"lingers":  lingers,  // ADDR DURATION: an echo that takes its time to end
	"floods":   floods,   // ADDR: never stops sending to a client that says nothing, and is an echo to others
	"talks":    talks,    // ADDR N: an echo that prints N bytes before each answer
}

func await(file string) {
	for {
		if _, err := os.Stat(file); err == nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func fails(words []string) {
	fmt.Fprintln(os.Stderr, "child waits for its end")
	await(words[0])
	fmt.Fprintln(os.Stderr, "child has no more luck")
	os.Exit(3)
}

func late(words []string) {
	await(words[1])
	serve(words[0], echo)
}

func counts(words []string) {
	serve(words[0], func(c net.Conn) {
		first := bufio.NewReader(c)
		if _, err := first.Peek(1); err != nil {
			fmt.Fprintln(os.Stderr, "child got an empty connection")
			c.Close()
			return
		}
		fmt.Fprintln(os.Stderr, "child got a real connection")
		echo(&peeked{c, first})
	})
}

// peeked is a connection of which something was read ahead.
type peeked struct {
	net.Conn
	ahead *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.ahead.Read(b) }

func moody(words []string) {
	patience, _ := time.ParseDuration(words[1])
	l, began := listen(words[0]), time.Now()
	acceptAll(l, func(c net.Conn) {
		if time.Since(began) < patience {
			resetConn(c)
			return
		}
		fmt.Fprintln(c, "welcome")
		echo(c)
	})
}

func resetConn(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}

func unlucky(words []string) {
	l := listen(words[0]).(*net.TCPListener)
	if _, err := os.Stat(words[1]); err == nil {
		acceptAll(l, echo)
		return
	}
	if err := os.WriteFile(words[1], nil, 0o644); err != nil {
		os.Exit(1)
	}
	file, err := l.File()
	if err != nil {
		os.Exit(1)
	}
	fds := []unix.PollFd{{Fd: int32(file.Fd()), Events: unix.POLLIN}}
	for {
		if n, _ := unix.Poll(fds, -1); n == 1 {
			os.Exit(4)
		}
	}
}

func where(words []string) {
	for _, address := range strings.Split(words[0], ",") {
		go serve(address, func(c net.Conn) {
			answer(c, func(string) string { return c.LocalAddr().String() })
		})
	}
}

// stripes writes n bytes that tell when one is missing or twice.
func stripes(w io.Writer, n int) error {
	out := bufio.NewWriterSize(w, 64<<10)
	for i := range n {
		if err := out.WriteByte(stripe(i)); err != nil {
			return err
		}
	}
	return out.Flush()
}

func stripe(i int) byte { return byte(i*7 ^ i>>8 ^ i>>16) }

// stripesSum is what tally would say of n stripes.
func stripesSum(n int) string {
	sum := sha256.New()
	_ = stripes(sum, n)
	return fmt.Sprintf("%d %x", n, sum.Sum(nil))
}

// sumUntilEnd reads all that comes and returns it as tally would say it.
func sumUntilEnd(r io.Reader) (string, error) {
	sum := sha256.New()
	n, err := io.Copy(sum, r)
	return fmt.Sprintf("%d %x", n, sum.Sum(nil)), err
}

func answers(words []string) {
	serve(words[0], func(c net.Conn) {
		defer c.Close()
		all, err := io.ReadAll(c)
		n, bad := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(string(all), "ask ")))
		if err == nil && bad == nil {
			_ = stripes(c, n)
		}
	})
}

func speaks(words []string) {
	n, _ := strconv.Atoi(words[1])
	serve(words[0], func(c net.Conn) {
		defer c.Close()
		if stripes(c, n) != nil || c.(*net.TCPConn).CloseWrite() != nil {
			return
		}
		heard, err := sumUntilEnd(c)
		fmt.Fprintln(os.Stderr, "child heard", heard, err)
	})
}

func resets(words []string) {
	serve(words[0], func(c net.Conn) {
		what, _ := readLine(c)
		if what == "reset" {
			_ = stripes(c, 1000)
			_, _ = readLine(c) // that they have arrived
			resetConn(c)
			return
		}
		fmt.Fprintln(c, "watching")
		_, err := io.Copy(io.Discard, c)
		fmt.Fprintln(os.Stderr, "child saw a reset:", wasReset(err))
		c.Close()
	})
}

func dumps(words []string) {
	n, _ := strconv.Atoi(words[1])
	c, err := listen(words[0]).Accept()
	if err != nil {
		os.Exit(1)
	}
	_ = stripes(c, n)
	c.Close()
	os.Exit(0)
}

func holds(words []string) {
	var mu sync.Mutex
	var held []net.Conn
	serve(words[0], func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		held = append(held, c)
	})
}

func homeward(words []string) {
	var clients sync.WaitGroup
	var first sync.Once
	serve(words[0], func(c net.Conn) {
		clients.Add(1)
		first.Do(func() {
			go func() {
				clients.Wait()
				os.Exit(0)
			}()
		})
		defer clients.Done()
		echo(c)
	})
}

func lingers(words []string) {
	long, _ := time.ParseDuration(words[1])
	go serve(words[0], echo)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
	fmt.Fprintln(os.Stderr, "child lingers")
	time.Sleep(long)
	fmt.Fprintln(os.Stderr, "child is done")
	os.Exit(0)
}

func floods(words []string) {
	serve(words[0], func(c net.Conn) {
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		ahead := bufio.NewReader(c)
		if _, err := ahead.Peek(1); err == nil {
			_ = c.SetReadDeadline(time.Time{})
			echo(&peeked{c, ahead})
			return
		}
		defer c.Close()
		chunk := make([]byte, 64<<10)
		for {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	})
}

func talks(words []string) {
	n, _ := strconv.Atoi(words[1])
	words80 := strings.Repeat("x", 79) + "\n"
	serve(words[0], func(c net.Conn) {
		answer(c, func(line string) string {
			fmt.Print(strings.Repeat(words80, n/len(words80)))
			return line
		})
	})
}
