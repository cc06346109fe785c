package proxy

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

const v2Signature = "\r\n\r\n\x00\r\nQUIT\n"

var (
	client4 = &net.TCPAddr{IP: net.IPv4(203, 0, 113, 7), Port: 51000}
	bind4   = &net.TCPAddr{IP: net.IPv4(198, 51, 100, 1), Port: 4000}
	client6 = &net.TCPAddr{IP: net.ParseIP("2001:db8::7"), Port: 51000}
	bind6   = &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 4000}
)

// between is a header that tells addresses.
func between(source, dest string) header {
	return header{source: netip.MustParseAddrPort(source), dest: netip.MustParseAddrPort(dest)}
}

// unhex returns the bytes that are written with blanks between them.
func unhex(s string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b)
}

// golden are headers as the specification writes them, and what they say.
var golden = []struct {
	name, bytes string
	want        header
}{
	{"v1 tcp4", "PROXY TCP4 203.0.113.7 198.51.100.1 51000 4000\r\n", between("203.0.113.7:51000", "198.51.100.1:4000")},
	{"v1 tcp6", "PROXY TCP6 2001:db8::7 2001:DB8::1 51000 4000\r\n", between("[2001:db8::7]:51000", "[2001:db8::1]:4000")},
	{"v1 tcp6 with mapped tcp4", "PROXY TCP6 ::ffff:203.0.113.7 2001:db8::1 0 65535\r\n", between("203.0.113.7:0", "[2001:db8::1]:65535")},
	{"v1 longest tcp4", "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", between("255.255.255.255:65535", "255.255.255.255:65535")},
	{"v1 unknown", "PROXY UNKNOWN\r\n", header{local: true}},
	{"v1 longest unknown", "PROXY UNKNOWN " + strings.Repeat("f", 39) + " " + strings.Repeat("f", 39) + " 65535 65535\r\n", header{local: true}},
	{"v2 tcp4", v2Signature + unhex("21 11 000c cb007107 c6336401 c738 0fa0"), between("203.0.113.7:51000", "198.51.100.1:4000")},
	{"v2 tcp6", v2Signature + unhex("21 21 0024 20010db8000000000000000000000007 20010db8000000000000000000000001 c738 0fa0"), between("[2001:db8::7]:51000", "[2001:db8::1]:4000")},
	{"v2 tcp6 with mapped tcp4", v2Signature + unhex("21 21 0024 00000000000000000000ffffcb007107 00000000000000000000ffffc6336401 c738 0fa0"), between("203.0.113.7:51000", "198.51.100.1:4000")},
	{"v2 with a TLV", v2Signature + unhex("21 11 0013 cb007107 c6336401 c738 0fa0 04 0004 00000000"), between("203.0.113.7:51000", "198.51.100.1:4000")},
	{"v2 longest", v2Signature + unhex("21 11 ffff cb007107 c6336401 c738 0fa0") + strings.Repeat("\n", 65535-12), between("203.0.113.7:51000", "198.51.100.1:4000")},
	{"v2 local", v2Signature + unhex("20 00 0000"), header{local: true}},
	{"v2 local with addresses", v2Signature + unhex("20 11 000c cb007107 c6336401 c738 0fa0"), header{local: true}},
	{"v2 local of no known family with 3 bytes", v2Signature + unhex("20 99 0003 010203"), header{local: true}},
	{"v2 unspecified", v2Signature + unhex("21 00 0000"), header{local: true}},
	{"v2 unix", v2Signature + unhex("21 31 00d8") + strings.Repeat("\x00", 216), header{local: true}},
}

// What is behind the header stays in the socket, however it comes.
func TestReadHeader_TakesNotOneByteMore(t *testing.T) {
	const behind = "PROXY TCP4 is what a client says\r\n\x00"
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) {
			for _, network := range []string{"tcp", "unix"} {
				sent, got := pair(t, network)
				go sent.Write([]byte(g.bytes + behind))
				h, err := readHeader(t.Context(), got, patient)
				if err != nil || h != g.want {
					t.Fatalf("%s: read %+v, %v; want %+v", network, h, err, g.want)
				}
				hear(t, got, []byte(behind))
			}
		})
	}
}

// dripping is a connection that gives one byte at a time, and says which byte
// of a stream was asked for last.
type dripping struct {
	net.Conn
	from  *strings.Reader
	asked int // bytes up to the furthest that was asked for
}

func (d *dripping) Read(p []byte) (int, error) {
	at := int(d.from.Size()) - d.from.Len()
	d.asked = max(d.asked, at+len(p))
	return d.from.Read(p[:min(len(p), 1)])
}

func (d *dripping) SetReadDeadline(time.Time) error { return nil }

func TestReadHeader_InSingleBytes(t *testing.T) {
	for _, g := range golden {
		d := &dripping{from: strings.NewReader(g.bytes + "behind")}
		if h, err := readHeader(t.Context(), d, 0); err != nil || h != g.want {
			t.Errorf("%s: read %+v, %v; want %+v", g.name, h, err, g.want)
		}
		if d.asked != len(g.bytes) {
			t.Errorf("%s: asked for %d bytes of %d", g.name, d.asked, len(g.bytes))
		}
	}
}

func TestReadHeader_SaysWhatIsWrong(t *testing.T) {
	for _, tc := range []struct{ sent, want string }{
		{"GET / HTTP/1.1\r\n", "wrong PROXY header: there is none"},
		{"HELO\n", "there is none"}, // and waits
		{"AUTH hunter2\r\n", "there is none"},
		{"PROXY TCP5 1.2.3.4", "there is none"},
		{"PROXY \r\n", `there is none`},
		{"PROXY TCP4 \n", "must end with"},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", `"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n": proxyproto: version 1 header is invalid, must end with \r\n`},
		{"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", "invalid address"},
		{"PROXY TCP4 ::1 ::1 1 2\r\n", "invalid address"},
		{"PROXY TCP6 fe80::1%lo ::1 1 2\r\n", "invalid address"},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", "invalid port"},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", "address family"},
		{"PROXY UNKNOWN" + strings.Repeat(" ", 94) + "\r\n", "no CRLF within 107 bytes"},
		{v2Signature + unhex("31 11 000c"), "its version is 3"},
		{v2Signature + unhex("22 11 000c"), "unknown command 2"},
		{v2Signature + unhex("21 13 000c"), "unknown family and protocol 0x13"},
		{v2Signature + unhex("21 12 000c"), "for datagrams (0x12)"},
		{v2Signature + unhex("21 21 000c"), "12 bytes of addresses, which have 36"},
	} {
		sent, got := pair(t, "tcp")
		say(t, sent, []byte(tc.sent))
		_, err := readHeader(t.Context(), got, patient)
		if !errors.Is(err, errHeaderWrong) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v; want %q", tc.sent, err, tc.want)
		}
		if strings.ContainsAny(err.Error(), "\r\n\x00") {
			t.Errorf("%q: the error breaks its line: %q", tc.sent, err)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error tells a password: %q", tc.sent, err)
		}
	}
}

func TestReadHeader_AClientThatDoesNotFinish(t *testing.T) {
	for _, tc := range []struct {
		name, sent string
		then       func(*testing.T, peer)
		want       error
		text       string
	}{
		{"closes at once", "", half, errClientLeft, "the client has left before its PROXY header"},
		{"resets at once", "", resets, errClientLeft, ""},
		{"closes within version 1", "PROXY TCP4 1.2.3.4 ", half, errHeaderWrong, `it ends after "PROXY TCP4 1.2.3.4 "`},
		{"closes within version 2", v2Signature + unhex("21 11 0020 cb007107 c6336401 c738 0fa0 00"), half, errHeaderWrong, "it ends after"},
		{"is silent", "", stays, errHeaderLate, "0 bytes within 50ms"},
		{"stops within version 1", "PROXY UNKNOWN", stays, errHeaderLate, "13 bytes within 50ms"},
		{"stops within version 2", v2Signature + unhex("21 11 0020 cb007107"), stays, errHeaderLate, "20 bytes within 50ms"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sent, got := pair(t, "tcp")
			say(t, sent, []byte(tc.sent))
			tc.then(t, sent)
			_, err := readHeader(t.Context(), got, 50*time.Millisecond)
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%v; want %v and %q", err, tc.want, tc.text)
			}
		})
	}
}

func half(t *testing.T, p peer) {
	if err := p.CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

func resets(_ *testing.T, p peer) { reset(p) }

func stays(*testing.T, peer) {}

// The limit of the header is none of what follows it.
func TestReadHeader_LeavesNoDeadline(t *testing.T) {
	for _, header := range []string{"PROXY UNKNOWN\r\n", "no header at all"} {
		c, s := net.Pipe()
		const limit = 100 * time.Millisecond
		go c.Write([]byte(header))
		start := time.Now()
		readHeader(t.Context(), s, limit)
		if took := time.Since(start); took >= limit {
			t.Fatalf("the header took %v: too slow to tell", took)
		}
		late := time.AfterFunc(2*limit, func() { c.Close() })
		defer late.Stop()
		if _, err := io.Copy(io.Discard, s); err != nil {
			t.Errorf("after %q: %v", header, err)
		}
	}
}

func TestReadHeader_EndsWithItsContext(t *testing.T) {
	why := errors.New("the reason")
	ctx, cancel := context.WithCancelCause(t.Context())
	sent, got := pair(t, "tcp")
	say(t, sent, []byte("PROXY "))
	late := time.AfterFunc(20*time.Millisecond, func() { cancel(why) })
	defer late.Stop()
	if _, err := readHeader(ctx, got, 0); !errors.Is(err, why) {
		t.Errorf("within a header: %v", err)
	}
	sent, got = pair(t, "tcp")
	say(t, sent, []byte("PROXY UNKNOWN\r\n"))
	if _, err := readHeader(ctx, got, 0); !errors.Is(err, why) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestEncodeHeader_Golden(t *testing.T) {
	unixAddr := &net.UnixAddr{Net: "unix", Name: "/run/s"}
	v2Local := v2Signature + unhex("20 00 0000")
	for _, tc := range []struct {
		name         string
		version      byte
		source, dest net.Addr
		want         string
	}{
		{"v1 IPv4", 1, client4, bind4, "PROXY TCP4 203.0.113.7 198.51.100.1 51000 4000\r\n"},
		{"v1 IPv6", 1, client6, bind6, "PROXY TCP6 2001:db8::7 2001:db8::1 51000 4000\r\n"},
		{"v1 IPv6 with a zone", 1, &net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 1, Zone: "lo"}, bind6, "PROXY TCP6 fe80::1 2001:db8::1 1 4000\r\n"},
		{"v1 mixed", 1, client4, bind6, "PROXY TCP6 ::ffff:203.0.113.7 2001:db8::1 51000 4000\r\n"},
		{"v1 unix", 1, unixAddr, unixAddr, "PROXY UNKNOWN\r\n"},
		{"v1 unknown", 1, nil, bind4, "PROXY UNKNOWN\r\n"},
		{"v2 IPv4", 2, client4, bind4, v2Signature + unhex("21 11 000c cb007107 c6336401 c738 0fa0")},
		{"v2 IPv6", 2, client6, bind6, v2Signature + unhex("21 21 0024 20010db8000000000000000000000007 20010db8000000000000000000000001 c738 0fa0")},
		{"v2 mixed", 2, client6, bind4, v2Signature + unhex("21 21 0024 20010db8000000000000000000000007 00000000000000000000ffffc6336401 c738 0fa0")},
		{"v2 unix", 2, unixAddr, unixAddr, v2Local},
		{"v2 half unix", 2, client4, unixAddr, v2Local},
		{"v2 unknown", 2, (*net.TCPAddr)(nil), bind4, v2Local},
		{"v2 no IP", 2, &net.TCPAddr{}, bind4, v2Local},
	} {
		got, err := encodeHeader(tc.version, tc.source, tc.dest)
		if err != nil || string(got) != tc.want {
			t.Errorf("%s: %q, %v; want %q", tc.name, got, err, tc.want)
		}
	}
}

func TestEncodeHeader_KnowsTwoVersions(t *testing.T) {
	for _, version := range []byte{0, 3} {
		if b, err := encodeHeader(version, client4, bind4); err == nil {
			t.Errorf("version %d: %q", version, b)
		}
	}
}

// scripted is a connection whose bytes come in pieces.
type scripted struct {
	dripping
	pieces []byte // how many bytes come at once, in turn
	reads  int
}

func (s *scripted) Read(p []byte) (int, error) {
	at := int(s.from.Size()) - s.from.Len()
	s.asked = max(s.asked, at+len(p))
	most := len(p)
	if len(s.pieces) > 0 {
		most = min(most, 1+int(s.pieces[s.reads%len(s.pieces)]))
	}
	s.reads++
	return s.from.Read(p[:most])
}

// Whatever comes: there is no panic, not one byte behind a header is asked
// for, the pieces in which it comes change nothing, and what is taken can be
// said again.
func FuzzReadHeader(f *testing.F) {
	for _, g := range golden {
		if len(g.bytes) < 1024 {
			f.Add([]byte(g.bytes+"behind"), []byte{0, 3})
		}
	}
	f.Fuzz(func(t *testing.T, stream, pieces []byte) {
		whole := &scripted{dripping: dripping{from: strings.NewReader(string(stream))}}
		h, err := readHeader(t.Context(), whole, 0)
		torn := &scripted{dripping: dripping{from: strings.NewReader(string(stream))}, pieces: pieces}
		again, againErr := readHeader(t.Context(), torn, 0)
		if h != again || (err == nil) != (againErr == nil) || err == nil && torn.from.Len() != whole.from.Len() {
			t.Fatalf("at once %+v, %v, %d bytes left; in pieces %+v, %v, %d left", h, err, whole.from.Len(), again, againErr, torn.from.Len())
		}
		taken := stream[:len(stream)-whole.from.Len()]
		if err != nil {
			if !errors.Is(err, errHeaderWrong) && !errors.Is(err, errClientLeft) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		if whole.asked != len(taken) || torn.asked != len(taken) {
			t.Errorf("asked for %d and %d bytes where the header has %d", whole.asked, torn.asked, len(taken))
		}
		checkTaken(t, h, taken)
	})
}

// checkTaken compares a header with its bytes, and says it again.
func checkTaken(t *testing.T, h header, taken []byte) {
	t.Helper()
	switch line, isLine := bytes.CutPrefix(taken, []byte("PROXY ")); {
	case isLine && (bytes.IndexByte(line, '\n') != len(line)-1 || len(taken) > v1Max):
		t.Errorf("%q is not one line", taken)
	case !isLine && len(taken) != v2Fixed+int(taken[14])<<8+int(taken[15]):
		t.Errorf("%q has not the length that it says", taken)
	}
	if h.local != (!h.source.IsValid() && !h.dest.IsValid()) || h.source.Addr().Is4In6() || h.dest.Addr().Is4In6() {
		t.Errorf("%q says %+v", taken, h)
	}
	var source, dest net.Addr
	if !h.local {
		source, dest = net.TCPAddrFromAddrPort(h.source), net.TCPAddrFromAddrPort(h.dest)
	}
	for version := byte(1); version <= 2; version++ {
		b, err := encodeHeader(version, source, dest)
		if err != nil {
			t.Fatalf("%+v in version %d: %v", h, version, err)
		}
		if got, err := readHeader(t.Context(), &dripping{from: strings.NewReader(string(b))}, 0); err != nil || got != h {
			t.Errorf("%+v, said again in version %d as %q, is %+v, %v", h, version, b, got, err)
		}
	}
}

// A socket that is closed meanwhile, by whomever, is a client that has left.
func TestReadHeader_DeadSocket(t *testing.T) {
	_, got := pair(t, "tcp")
	got.Close()
	if _, err := readHeader(t.Context(), got, patient); !errors.Is(err, errClientLeft) || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
