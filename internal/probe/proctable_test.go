package probe

import (
	"encoding/binary"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func readTestdata(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func collect(parse func([]byte, func(socket) bool), text []byte) []socket {
	var all []socket
	parse(text, func(s socket) bool {
		all = append(all, s)
		return true
	})
	return all
}

var compareSockets = cmp.Options{
	cmp.AllowUnexported(socket{}),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

func TestParseProcTCP(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("SKIPPED: the golden files are those of a little-endian machine")
	}
	want := map[string][]socket{
		"proc_net_tcp": {
			{inode: 231424, addr: netip.MustParseAddrPort("127.0.0.1:3000")},
			{inode: 232449, addr: netip.MustParseAddrPort("0.0.0.0:3001")},
		},
		"proc_net_tcp6": {
			{inode: 232452, addr: netip.MustParseAddrPort("[::ffff:127.0.0.1]:3003")},
			{inode: 232450, addr: netip.MustParseAddrPort("[::1]:3000")},
			{inode: 232451, addr: netip.MustParseAddrPort("[::]:3002")},
		},
	}
	for name, want := range want {
		got := collect(parseProcTCP, readTestdata(t, name))
		if diff := cmp.Diff(want, got, compareSockets); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestParseProcUnix(t *testing.T) {
	got := collect(parseProcUnix, readTestdata(t, "proc_net_unix"))
	want := []socket{
		{inode: 232467, uid: -1, path: "/run/app sock"},
		{inode: 232470, uid: -1, path: "rel.sock"},
		{inode: 232471, uid: -1, path: "@abs"},
	}
	if diff := cmp.Diff(want, got, compareSockets); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseStopsWhenAsked(t *testing.T) {
	for name, parse := range map[string]func([]byte, func(socket) bool){
		"proc_net_tcp": parseProcTCP, "proc_net_unix": parseProcUnix,
	} {
		calls := 0
		parse(readTestdata(t, name), func(socket) bool {
			calls++
			return false
		})
		if calls != 1 {
			t.Errorf("%s: %d calls after the first said no", name, calls)
		}
	}
}

func TestRank(t *testing.T) {
	tests := []struct {
		bound, dest string
		want        int
	}{
		{"127.0.0.1:80", "127.0.0.1:80", 3},
		{"[::ffff:127.0.0.1]:80", "127.0.0.1:80", 3},
		{"0.0.0.0:80", "127.0.0.1:80", 2},
		{"[::]:80", "127.0.0.1:80", 1},
		{"[::]:80", "[::1]:80", 1},
		{"[::1]:80", "[::1]:80", 3},
		{"0.0.0.0:80", "[::1]:80", 0},
		{"127.0.0.2:80", "127.0.0.1:80", 0},
		{"127.0.0.1:81", "127.0.0.1:80", 0},
		{"[fe80::1]:80", "[fe80::1%eth0]:80", 3},
	}
	for _, tt := range tests {
		s := socket{addr: netip.MustParseAddrPort(tt.bound)}
		if got := rank(s, netip.MustParseAddrPort(tt.dest)); got != tt.want {
			t.Errorf("rank(%s, %s) = %d, want %d", tt.bound, tt.dest, got, tt.want)
		}
	}
}

func FuzzProcNetTCP(f *testing.F) {
	f.Add(readTestdata(f, "proc_net_tcp"))
	f.Add(readTestdata(f, "proc_net_tcp6"))
	f.Add([]byte("0: 0100007F:0BB8 x 0A x x x 1 x 1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, s := range collect(parseProcTCP, text) {
			if s.inode == 0 || !s.addr.Addr().IsValid() || s.uid < 0 {
				t.Errorf("%+v", s)
			}
		}
	})
}

func FuzzProcNetUnix(f *testing.F) {
	f.Add(readTestdata(f, "proc_net_unix"))
	f.Add([]byte("0: 2 0 00010000 1 01 7 /a b\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, s := range collect(parseProcUnix, text) {
			if s.inode == 0 || s.path == "" {
				t.Errorf("%+v", s)
			}
		}
	})
}
