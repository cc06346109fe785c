package main

import (
	"testing"
	"time"

	"tiproxy/internal/admin"
)

func TestWords_Times(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second: "0.0s", 0: "0.0s", 1500 * time.Millisecond: "1.5s", 59900 * time.Millisecond: "59s", 192 * time.Second: "3m12s",
		2*time.Hour + 5*time.Minute: "2h05m", 47*time.Hour + 59*time.Minute: "47h59m", 76 * time.Hour: "3d4h",
	} {
		if got := lasting(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	now := time.Date(2026, 3, 12, 9, 12, 30, 0, time.FixedZone("", 3600))
	for at, want := range map[time.Time]string{
		now.Add(-time.Minute): "09:11", now.Add(-72 * time.Hour): "Mon 09:12", now.Add(-9 * 24 * time.Hour): "3 Mar 09:12",
		now.Add(20 * time.Hour): "Fri 05:12", now.Add(-400 * 24 * time.Hour): "5 Feb 2025 09:12",
	} {
		if got := moment(at, now.In(time.UTC)); got != want {
			t.Errorf("%v: %q, want %q", at, got, want)
		}
	}
}

func TestWords_Numbers(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 5 << 30: "5.0 GiB", 1<<64 - 1: "16.0 EiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	for part, want := range map[float64]string{0: "0 %", .001: "<1 %", .93: "93 %", .9999: "99.9 %", 1: "100 %"} {
		if got := percent(part); got != want {
			t.Errorf("%v: %q, want %q", part, got, want)
		}
	}
}

// noon is when the tests of what status shows look.
var noon = time.Date(2026, 3, 12, 12, 0, 0, 0, time.FixedZone("", 0))

// someServices are one of each kind.
func someServices() []admin.Service {
	monday := noon.Add(-74*time.Hour - 48*time.Minute)
	return []admin.Service{
		{
			Name: "cache", State: admin.StateClosed, Since: noon.Add(-192 * time.Second), Bind: "127.0.0.1:6379", Dest: "127.0.0.1:6380", Program: "redis-server", Path: "copy",
			Served: 12, Starts: 4, CountingSince: monday, Seconds: admin.InState{Closed: 93, Opened: 7},
		},
		{
			Name: "db", State: admin.StateOpened, Since: noon.Add(-5 * time.Second), PID: 77, Bind: "0.0.0.0:3306", Dest: "127.0.0.1:3307", Program: "mariadbd", Path: "direct",
			Connections: 3, Resting: 1, Served: 200, Starts: 9, Failures: 1, BytesUp: 2048, BytesDown: 5 << 20, CountingSince: monday,
			HeldUntil: noon.Add(2 * time.Hour), Seconds: admin.InState{Closed: 1, Opened: 1},
			ColdStarts: []admin.ColdStart{{Took: 1.25, OK: true}, {Took: .2}},
			LastError:  &admin.Failure{At: noon.Add(-time.Hour), Error: "exit status 1", Hint: "look at its files", Lines: []string{"no space\x1b[31m left"}},
			Timeline:   []admin.Change{{At: noon.Add(-7 * time.Second), State: admin.StateStarting, Who: "192.0.2.1:99"}, {At: noon.Add(-5 * time.Second), State: admin.StateOpened}},
		},
		{
			Name: "llm", State: admin.StateStarting, Since: noon.Add(-80 * time.Second), Bind: "127.0.0.1:8000", Program: "vllm", Path: "inherit", Waiting: 2, CountingSince: noon,
			LastError: &admin.Failure{At: noon.Add(-2 * time.Minute), Error: "not ready after 1m0s"}, Failed: "accept: bad file descriptor",
		},
	}
}

func TestStatus_Table(t *testing.T) {
	t.Parallel()
	const want = `NAME   STATE               CONNECTIONS   STARTS       ASLEEP                BIND            PROGRAM
cache  closed for 3m12s    0             4            93 % since Mon 09:12  127.0.0.1:6379  redis-server
db     opened for 5s       3, 1 resting  9, 1 failed  50 % since Mon 09:12  0.0.0.0:3306    mariadbd      held until 14:00
llm    starting for 1m20s  0, 2 waiting  0            -                     127.0.0.1:8000  vllm          takes no clients: accept: bad file descriptor, failed: not ready after 1m0s
`
	if got := statusTable(someServices(), noon, false); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestStatus_One(t *testing.T) {
	t.Parallel()
	const want = `db            opened for 5s, pid 77
program       mariadbd
address       0.0.0.0:3306 to 127.0.0.1:3307, direct path
connections   3, 1 resting, 200 served
bytes         2.0 KiB to the child, 5.0 MiB from it
asleep        50 % since Mon 09:12
starts        9, 1 failed; they took 1.25s, 200ms (failed)
held          until 14:00, for 2h00m more
last failure  11:00: exit status 1
              | no space\x1b[31m left
              hint: look at its files
history       11:59:53 starting, woken by 192.0.2.1:99
              11:59:55 opened
`
	if got := statusOf(someServices()[1], noon, false); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestStatus_ColoursTakeNoRoom(t *testing.T) {
	t.Parallel()
	got := table([][]cell{{{"a", green}, {"b", plain}}, {{"long", plain}, {"é", red}}, {{"", plain}, {"x", bold}}}, true)
	if want := "\x1b[32ma\x1b[0m     b\nlong  \x1b[31mé\x1b[0m\n      \x1b[1mx\x1b[0m\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
