package probe

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// realAnswers are datagrams as this machine's kernel sends them.
func realAnswers(tb testing.TB) [][]byte {
	tb.Helper()
	ln, err := listenAs("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	var all [][]byte
	src := netip.MustParseAddrPort(ln.Addr().String())
	for _, request := range [][]byte{
		inetRequest(unix.AF_INET, 0, anyState, src, loopbackIndex),
		inetRequest(unix.AF_INET, unix.NLM_F_DUMP, 1<<stateListen, src, 0),
		inetRequest(unix.AF_INET6, 0, anyState, netip.MustParseAddrPort("[::1]:1"), 0), // nobody: an error
		unixDumpRequest(),
	} {
		all = append(all, firstAnswer(tb, request))
	}
	return all
}

func firstAnswer(tb testing.TB, request []byte) []byte {
	tb.Helper()
	nl, err := openNetlink()
	if err != nil {
		tb.Fatal(err)
	}
	defer nl.close()
	if err := nl.send(request); err != nil {
		tb.Fatal(err)
	}
	b, err := nl.receive()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// FuzzSockDiag: whatever arrives, parsing ends, and reads no byte beyond it.
func FuzzSockDiag(f *testing.F) {
	for _, b := range realAnswers(f) {
		f.Add(b)
	}
	f.Add([]byte{16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			m, rest, err := nextMessage(b)
			if err != nil {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			_ = m.failure()
			parseInet(m.body)
			parseUnix(m.body)
			b = rest
		}
	})
}

func TestParseRefusesWhatIsCutShort(t *testing.T) {
	for _, b := range realAnswers(t) {
		m, _, err := nextMessage(b)
		if err != nil {
			t.Fatal(err)
		}
		for n := range len(m.body) {
			if _, ok := parseInet(m.body[:n]); ok && n < inetAnswerLen {
				t.Errorf("a socket from %d bytes", n)
			}
			if _, ok := parseUnix(m.body[:n]); ok && n < unixAnswerLen {
				t.Errorf("a unix socket from %d bytes", n)
			}
		}
		if _, _, err := nextMessage(b[:unix.NLMSG_HDRLEN]); err == nil && len(m.body) > 0 {
			t.Error("a header alone is taken for a message")
		}
	}
}
