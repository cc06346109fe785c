//go:build linux

package soak

import (
	"strings"
	"testing"
	"time"
)

// Only a fault that can cause a loss, at work on that client's own server or on
// tiproxy while the client was there, is an excuse.
func TestJudge_ExcusesAreNarrow(t *testing.T) {
	t.Parallel()
	const from, to = moment(100), moment(200)
	mine, leader, other := ident{pid: 1}, ident{pid: 2}, ident{pid: 3}
	during := func(h harm, victim ident) fault { return fault{harm: h, from: 150, to: 160, victim: victim} }
	known := func(e ending) outcome {
		return outcome{ending: e, from: from, to: to, server: mine, leader: leader}
	}
	unknown := func(e ending) outcome { return outcome{ending: e, from: from, to: to} }
	late := known(cut)
	late.to = 150 + moment(drainTimeout)
	hurried := during(proxyStopped, ident{})
	hurried.hurried = true
	down := fault{harm: linkDown, from: 150, to: 160, near: true}
	distant := unknown(cut)
	distant.far = true
	seen := distant
	seen.seen = true
	for _, tt := range []struct {
		name  string
		o     outcome
		fault fault
		want  excuse
	}{
		{"its server was killed", known(cut), during(childKilled, mine), ownServer},
		{"its server's leader was killed", known(cut), during(childKilled, leader), ownServer},
		{"its server crashed", known(cut), during(childCrashed, mine), ownServer},
		{"another server was killed", known(cut), during(childKilled, other), noExcuse},
		{"nobody had read its request", unknown(cut), during(childKilled, other), unserved},
		{"a start failed that it waited for", unknown(cut), during(startFailed, other), unserved},
		{"a start failed but it was served", known(cut), during(startFailed, other), noExcuse},
		{"tiproxy was killed", known(cut), during(proxyKilled, ident{}), proxyEnded},
		{"it waited when tiproxy was told to stop", unknown(cut), during(proxyStopped, ident{}), proxyEnded},
		{"it was cut within the drain time", known(cut), during(proxyStopped, ident{}), noExcuse},
		{"it was cut after the drain time", late, during(proxyStopped, ident{}), proxyEnded},
		{"the drain was cut short", known(cut), hurried, proxyEnded},
		{"there was no tiproxy", unknown(refused), during(proxyKilled, ident{}), proxyAbsent},
		{"refused for a dead child", unknown(refused), during(childKilled, other), noExcuse},
		{"refused for a failed start", unknown(refused), during(startFailed, other), noExcuse},
		{"the kill came before it", known(cut), fault{harm: childKilled, from: 10, to: 99, victim: mine}, noExcuse},
		{"the kill came after it", known(cut), fault{harm: childKilled, from: 201, to: 300, victim: mine}, noExcuse},
		{"its handshake was forgotten", distant, down, handshake},
		{"tiproxy had its connection when the device went down", seen, down, noExcuse},
		{"the device of its own side was down", distant, during(linkDown, ident{}), noExcuse},
		{"a near client needs no device", unknown(cut), down, noExcuse},
		{"the link lost everything", distant, during(linkCut, ident{}), noExcuse},
		{"its server was stopped", known(cut), during(frozen, mine), noExcuse},
		{"there were no descriptors", unknown(cut), during(starved, ident{}), noExcuse},
		{"stranded", unknown(stranded), during(proxyKilled, ident{}), noExcuse},
		{"wrong bytes", known(wronged), during(childKilled, mine), noExcuse},
	} {
		if got := judge(tt.o, []fault{tt.fault}); got != tt.want {
			t.Errorf("%s: excuse %d, want %d", tt.name, got, tt.want)
		}
	}
}

// What a child did to itself and who read which request is found in its journal.
func TestJournal_NamesWhoReadARequest(t *testing.T) {
	t.Parallel()
	j := journal{took: map[uint64]taker{}}
	for line := range strings.Lines("start 1 5.50 5.50 0\ntook 2 5.50 4.40 77\ncrash 3 5.50 4.40 77\nfail 9 6.60 6.60 0\n") {
		if err := j.add(strings.TrimSpace(line)); err != nil {
			t.Fatal(err)
		}
	}
	o := outcome{visit: visit{asks: []ask{{Seed: 77}}}}
	j.identify(&o)
	if o.server != (ident{5, 50}) || o.leader != (ident{4, 40}) {
		t.Errorf("the request was read by %v of %v", o.server, o.leader)
	}
	if len(j.faults) != 2 || j.faults[0].harm != childCrashed || j.faults[1].harm != startFailed || time.Duration(j.faults[0].to-j.faults[0].from) != journalTime {
		t.Errorf("faults: %v", j.faults)
	}
	if j.add("crash") == nil {
		t.Error("half a line is no entry")
	}
}

// Every loss makes a row that is not lossless, and adds up.
func TestTally_EveryLossCounts(t *testing.T) {
	t.Parallel()
	var sum tally
	n := len(sum.losses())
	for i := range n {
		var row tally
		*row.losses()[i] = 1
		if row.lossless() {
			t.Errorf("loss %d is not seen", i)
		}
		sum.add(&row)
	}
	for i, got := range sum.losses() {
		if *got != 1 {
			t.Errorf("loss %d adds up to %d", i, *got)
		}
	}
	if text, total := table([]string{"a"}, map[string]*tally{"a": &sum}); total.lossless() || strings.Count(text, "\n") != 4 {
		t.Errorf("the table has lost the losses:\n%s", text)
	}
}
