//go:build linux

package soak

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// round is one scenario, played once.
type round struct {
	lane     *lane
	form     form
	scenario scenario
	name     string // for people
	plan     *rand.Rand
	command  []string // the child
	journal  string
	patience time.Duration

	// The fields below belong to the goroutine of the injuries while it runs.
	proxy   *proxy
	proxies []*proxy        // all that ran
	starved int             // times that descriptors were taken away
	slow    []time.Duration // recoveries from that which took too long

	// The fields below are guarded by mu.
	mu       sync.Mutex
	tally    tally
	faults   []fault
	outcomes []outcome
	evidence []string
	probes   int
}

// holdBackMax is the longest pause between two starts that fail.
const holdBackMax = time.Minute

func newRound(l *lane, s scenario, number int) *round {
	r := &round{
		lane: l, form: l.form, scenario: s, name: fmt.Sprintf("seed %d round %d: %s", l.seed, number, s.name),
		plan:    rand.New(rand.NewPCG(l.seed, uint64(number))),
		journal: filepath.Join(l.dir, fmt.Sprintf("journal-%d-%d", l.seed, number)),
	}
	if s.redis {
		r.command = []string{"redis-server", "--port", "3000", "--bind", "127.0.0.1", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", l.dir}
	} else {
		m := s.manners(r.plan)
		m.Listen, m.Journal, m.Seed = destAddr, r.journal, r.plan.Uint64()
		r.command = childLine(m)
	}
	return r
}

func childLine(m manners) []string {
	words, err := json.Marshal(m)
	if err != nil {
		panic(err) // it has only plain fields
	}
	return []string{self, "role", string(words)}
}

// play plays the round to its end and returns its row of the table.
func (r *round) play() tally {
	visits := r.scenario.visits(r.plan, r.form)
	injuries, outages := r.form.plan(r.plan, r.scenario.injuries), r.form.plan(r.plan, r.scenario.outages)
	r.patience = patience(injuries, outages)
	r.tally.rounds, r.tally.clients = 1, int64(len(visits))
	before := r.lane.link.counts().lost
	if err := r.lane.prepareLink(r.scenario); err != nil {
		r.problem("prepare the link: %v", err)
	}
	if r.launch() {
		r.rage(visits, injuries, outages)
		r.settle()
		r.account()
	}
	r.tally.packets = r.lane.link.counts().lost - before
	for _, p := range r.proxies {
		p.end(syscall.SIGKILL, bound) // does nothing to one that has ended
	}
	return r.tally
}

// patience is how long a client waits for the next byte. Within this time it
// has to be served or told, whatever is planned: a start may be held back, may
// take its time after a stop that took its own, and everything that is stopped
// or cut off goes on; the rest is for a busy machine and TCP's own pauses,
// which double with each loss.
func patience(plans ...[]injury) time.Duration {
	sum := holdBackMax + startTimeout + stopTimeout
	for _, plan := range plans {
		for _, i := range plan {
			sum += 2 * i.length
		}
	}
	return sum + bound
}

// launch starts a tiproxy and makes it the round's.
func (r *round) launch() bool {
	p, err := launch(r.lane.near, fmt.Sprintf("%s.%d", filepath.Base(r.journal), len(r.proxies)), r.command)
	if err != nil {
		r.problem("%v", err)
		return false
	}
	r.proxy = p
	r.proxies = append(r.proxies, p)
	return true
}

// rage lets the clients come and the faults happen, and returns when all is over.
func (r *round) rage(visits []visit, injuries, outages []injury) {
	var busy sync.WaitGroup
	for _, plan := range [][]injury{injuries, outages} {
		busy.Go(func() {
			for _, i := range plan {
				<-time.After(i.at)
				i.act(r, i)
			}
		})
	}
	r.welcome(visits...)
	busy.Wait()
}

// meet lets clients come, each at its time, and returns when all have gone.
func (r *round) meet(visits []visit) []outcome {
	out := make([]outcome, len(visits))
	var all sync.WaitGroup
	for i, v := range visits {
		all.Go(func() {
			<-time.After(v.at)
			out[i] = r.insist(v)
		})
	}
	all.Wait()
	return out
}

// insist lets a client come until somebody takes its connection, as people do.
// Each refusal is judged by itself.
func (r *round) insist(v visit) outcome {
	for began := now(); ; {
		o := r.lane.client(v, r.patience, r.scenario.redis).come()
		if o.ending != refused || began.since() > r.patience {
			return o
		}
		r.book(o)
		<-time.After(200 * time.Millisecond)
	}
}

// welcome is meet, and notes what became of them.
func (r *round) welcome(visits ...visit) {
	for _, o := range r.meet(visits) {
		r.book(o)
	}
}

// probe is a near client that asks something small.
func (r *round) probe() visit {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.probes++
	r.tally.clients++
	return visit{number: 1000 + r.probes, habit: short, asks: []ask{{Up: 100, Down: 100, Seed: r.lane.seed + uint64(r.probes)}}}
}

func (r *round) book(o outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcomes = append(r.outcomes, o)
}

func (r *round) record(f fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, f)
}

// lose counts a loss and keeps the evidence.
func (r *round) lose(counter *int64, n int, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*counter += int64(n)
	r.evidence = append(r.evidence, fmt.Sprintf(format, args...))
}

// problem is something that the soak itself could not do. It counts as a loss,
// so that a round that did not take place is not taken for one that went well.
func (r *round) problem(format string, args ...any) {
	r.lose(&r.tally.late, 1, "the round could not be played: "+format, args...)
}

// settle waits until tiproxy is calm, compares it with a calm one, ends it, and
// looks for what it leaves.
func (r *round) settle() {
	p := r.proxy
	if left := p.asleep(bound); len(left) > 0 {
		dead := 0
		for _, q := range left {
			if q.state == 'Z' {
				dead++
			}
		}
		r.lose(&r.tally.zombies, dead, "zombies below a tiproxy that should be asleep: %v", left)
		r.lose(&r.tally.processes, len(left)-dead, "processes below a tiproxy that should be asleep: %v", left)
	}
	files := 0
	if !poll(bound/4, func() bool { files = descriptors(p.pid()); return files <= r.lane.calm.descriptors }) {
		r.lose(&r.tally.descriptors, files-r.lane.calm.descriptors, "%d descriptors while asleep, %d in one that is calm", files, r.lane.calm.descriptors)
	}
	if r.plan.IntN(2) == 0 {
		r.proxyEnds(syscall.SIGTERM, 0)
	} else {
		r.proxyEnds(syscall.SIGQUIT, 2)
		if n := goroutines(p.log.text()); n == 0 || n > r.lane.calm.goroutines {
			r.lose(&r.tally.goroutines, max(1, n-r.lane.calm.goroutines), "%d goroutines while asleep, %d in one that is calm:\n%s", n, r.lane.calm.goroutines, creators(p.log.text()))
		}
	}
}

// goroutines counts them in the dump that SIGQUIT makes Go's runtime print,
// without the runtime's own, which come as the garbage collector needs them, and
// without the call of a timer that happens to run.
func goroutines(dump string) (n int) {
	for _, one := range strings.Split(dump, "\ngoroutine ")[1:] {
		if !strings.Contains(one, "created by runtime.") && !strings.Contains(one, "created by time.goFunc") {
			n++
		}
	}
	return n
}

// creators names what the goroutines of a dump were created by.
func creators(dump string) string {
	var names []string
	for line := range strings.Lines(dump) {
		if rest, ok := strings.CutPrefix(line, "created by "); ok {
			names = append(names, "\t"+rest)
		}
	}
	slices.Sort(names)
	return strings.Join(names, "")
}

// proxyEnds ends the round's tiproxy and checks how, and what it leaves.
func (r *round) proxyEnds(sig syscall.Signal, status int) {
	const slack = 10 * time.Second
	p := r.proxy
	if !p.end(sig, drainTimeout+stopTimeout+tailTime+slack) {
		r.lose(&r.tally.late, 1, "tiproxy had not ended %v after %v", drainTimeout+stopTimeout+tailTime+slack, sig)
	} else if got := p.cmd.ProcessState.ExitCode(); got != status {
		r.lose(&r.tally.late, 1, "after %v: %v, want exit status %d", sig, p.cmd.ProcessState, status)
	}
	if left := p.gone(r.form.outlive); len(left) > 0 {
		r.lose(&r.tally.processes, len(left), "tiproxy ended after %v and left %v", sig, left)
		putAway(left)
	}
	streams := make(chan struct{})
	go func() {
		p.read.Wait()
		close(streams)
	}()
	select {
	case <-streams:
	case <-time.After(bound):
		r.lose(&r.tally.processes, 1, "somebody still holds the stdout or stderr of a tiproxy that has ended")
	}
}

// account judges every client and every line of the log, now that all that
// went wrong is known.
func (r *round) account() {
	j, err := readJournal(r.journal)
	if err != nil {
		r.problem("%v", err)
	}
	r.faults = append(r.faults, j.faults...)
	r.stretch()
	for _, at := range j.odd {
		r.lose(&r.tally.wrong, 1, "at %v a server read a request that nobody had sent", at)
	}
	r.tally.faults = int64(len(r.faults))
	for _, o := range r.outcomes {
		j.identify(&o)
		r.accountFor(o)
	}
	r.judgeRecovery()
	r.readLogs()
}

// noticeMax is how long tiproxy may take to notice a child's end and still have
// it count for the clients that came meanwhile.
const noticeMax = 2 * time.Second

// stretch lets the end of a child last until tiproxy has told of it: until then
// a client may be given to what is left of it.
func (r *round) stretch() {
	for i := range r.faults {
		f := &r.faults[i]
		if !f.logged {
			continue
		}
		for _, p := range r.proxies {
			if at := p.log.toldOf(f.from); at != 0 && time.Duration(at-f.from) < noticeMax {
				f.to = max(f.to, at)
			}
		}
	}
}

func (r *round) accountFor(o outcome) {
	t := &r.tally
	t.wait = max(t.wait, o.waited())
	switch o.ending {
	case served:
		t.served++
		t.up += o.up
		t.down += o.down
		return
	case left:
		t.left++
		return
	}
	o.seen = r.saidOf(o) != ""
	if e := judge(o, r.faults); e != noExcuse {
		t.excused[e]++
		return
	}
	t.lost += o.lost
	t.wrong += o.wrong
	counter := &t.cut
	switch o.ending {
	case refused:
		counter = &t.refused
	case stranded:
		counter = &t.stranded
	}
	r.lose(counter, 1, "%v\n%s", o, r.saidOf(o))
}

// saidOf is what tiproxy has logged about a client.
func (r *round) saidOf(o outcome) string {
	var said strings.Builder
	for _, p := range r.proxies {
		said.WriteString(p.log.mentioning(`"` + o.local + `"`))
	}
	return said.String()
}

// escapedMessage names a process that outlived the tiproxy that started it,
// whoever's that was: other rounds and other packages' tests kill theirs, too.
const escapedMessage = "a process of an earlier tiproxy still lives"

// readLogs looks for warnings and worse that no fault explains. The end of a
// child that was killed, crashed or failed is logged once, in one of two ways.
func (r *round) readLogs() {
	ends := 0
	for _, f := range r.faults {
		if f.logged {
			ends++
		}
	}
	for _, p := range r.proxies {
		for _, e := range p.log.grave {
			switch {
			case e.Msg == escapedMessage:
			case r.starved > 0 && slices.Contains(starvedMessages, e.Msg):
			case isEnd(e) && ends > 0:
				ends--
			default:
				r.lose(&r.tally.lines, 1, "unexpected in the log: %s", e.line)
			}
		}
	}
}

// report is the evidence of a round that has lost something.
func (r *round) report() string {
	const most, tail = 12, 9000
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nchild: %v\n", r.name, r.command)
	slices.SortFunc(r.faults, func(a, b fault) int { return int(a.from - b.from) })
	for _, f := range r.faults {
		fmt.Fprintf(&b, "fault: %v\n", f)
	}
	for _, e := range r.evidence[:min(most, len(r.evidence))] {
		fmt.Fprintf(&b, "LOST: %s\n", e)
	}
	if more := len(r.evidence) - most; more > 0 {
		fmt.Fprintf(&b, "… and %d more\n", more)
	}
	for i, p := range r.proxies {
		fmt.Fprintf(&b, "log of tiproxy %d:\n%s\n", i+1, p.log.tail(tail))
	}
	return b.String()
}
