//go:build linux

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// runQuickStart runs a line of the README as it is written there: the binary
// is ./tiproxy and the ports are the ones a reader will use, in a network
// where they are free.
func runQuickStart(t *testing.T, line string) *tiproxy {
	t.Helper()
	dir := sharedDir(t)
	path := filepath.Join(dir, "tiproxy")
	if err := copyFile(path, binary); err != nil {
		t.Fatal(err)
	}
	return run(t, setup{space: newNetwork(t), line: strings.Fields(line), path: path, dir: dir})
}

func TestQuickStart_CurlReachesNcat(t *testing.T) {
	p := runQuickStart(t, "./tiproxy --dest 127.0.0.1:3000 --exec ncat --workdir /usr/sbin -- -l -k -p 3000 -4 -v")
	r := clientIn(t, p.setup.space, "", "curl", "-v", "http://127.0.0.1:4000/api")
	if r.status != 52 || !strings.Contains(r.stderr, "Empty reply from server") {
		t.Errorf("curl ended with %d, want 52, empty reply from server:\n%s", r.status, r.stderr)
	}
	if !p.out.until(bound, func() bool { return strings.Contains(p.out.text(), "GET /api HTTP/1.1\r\nHost: 127.0.0.1:4000\r\n") }) {
		t.Errorf("ncat's output did not reach tiproxy's stdout: %q", p.out.text())
	}
	if !strings.Contains(p.log.text(), "Ncat: Listening on 0.0.0.0:3000") {
		t.Error("what ncat says on stderr did not reach tiproxy's stderr")
	}
}

func TestQuickStart_BrokerPassesWordsOn(t *testing.T) {
	p := runQuickStart(t, "./tiproxy --dest 127.0.0.1:3000 --exec ncat --workdir /usr/sbin -- -l -k -p 3000 -4 -v --broker")
	x := openSession(t, p.setup.space, "nc", "-t", "127.0.0.1", "4000")
	z := openSession(t, p.setup.space, "telnet", "127.0.0.1", "4000")
	// ncat names every client twice, the second time with its port.
	joined := func() bool { return strings.Count(p.log.text(), "Ncat: Connection from 127.0.0.1:") == 2 }
	if !p.log.until(bound, joined) {
		t.Fatal("ncat did not see both clients")
	}
	y := openSession(t, p.setup.space, "sh", "-c", "echo HELLO | nc -t 127.0.0.1 4000")
	x.hears("HELLO\n")
	z.hears("HELLO\n")
	if said := y.stdout.text(); said != "" {
		t.Errorf("the speaker heard itself: %q", said)
	}
	if n := p.log.count("starting"); n != 1 {
		t.Errorf("%d children for three clients, want 1", n)
	}
}
