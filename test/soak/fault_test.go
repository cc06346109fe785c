//go:build linux

package soak

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// harm is a kind of fault. Those from frozen on excuse nobody whom tiproxy has
// seen: they may only make things slow.
type harm int

const (
	childKilled  harm = iota // SIGKILL to the child or a grandchild
	childCrashed             // it ended by itself, under its clients
	startFailed              // it ended by itself, before it listened
	proxyKilled              // SIGKILL to tiproxy, until it listens again
	proxyStopped             // SIGTERM to tiproxy, until it listens again
	frozen                   // SIGSTOP to a process, until SIGCONT
	starved                  // no descriptors for tiproxy
	linkCut                  // the link lost everything
	linkDown                 // the device of one side was down
)

func (h harm) String() string {
	return [...]string{"child killed", "child crashed", "start failed", "tiproxy killed", "tiproxy stopped", "SIGSTOP to", "no descriptors", "link cut", "link down"}[h]
}

// fault is one entry of the chronicle: what was at work, from when to when.
type fault struct {
	harm     harm
	from, to moment
	victim   ident // of the child's tree
	hurried  bool  // proxyStopped: a second signal ended the drain
	logged   bool  // tiproxy has to log it: its own child ended
	near     bool  // linkDown: on tiproxy's side
}

func (f fault) String() string {
	return fmt.Sprintf("%v %v, %v until %v", f.harm, f.victim, f.from, f.to)
}

// journalTime is how long after its entry a child that ends by itself is gone.
const journalTime = 500 * time.Millisecond

// journal is what the children have written.
type journal struct {
	faults []fault          // what they did to themselves
	took   map[uint64]taker // who read a request, by its seed
	odd    []moment         // when something else was read
}

type taker struct{ server, leader ident }

func readJournal(path string) (j journal, err error) {
	j.took = map[uint64]taker{}
	file, err := os.Open(path)
	if os.IsNotExist(err) {
		return j, nil
	}
	if err != nil {
		return j, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if err := j.add(lines.Text()); err != nil {
			return j, fmt.Errorf("journal line %q: %w", lines.Text(), err)
		}
	}
	return j, nil
}

func (j *journal) add(line string) error {
	var kind, server, leader string
	var at moment
	var seed uint64
	if _, err := fmt.Sscanf(line, "%s %d %s %s %d", &kind, &at, &server, &leader, &seed); err != nil {
		return err
	}
	var t taker
	var err error
	if t.server, err = parseIdent(server); err != nil {
		return err
	}
	if t.leader, err = parseIdent(leader); err != nil {
		return err
	}
	f := fault{from: at, to: at + moment(journalTime), victim: t.server, logged: true}
	switch kind {
	case journalTook:
		j.took[seed] = t
	case journalOdd:
		j.odd = append(j.odd, at)
	case journalFail:
		f.harm = startFailed
		j.faults = append(j.faults, f)
	case journalCrash:
		f.harm = childCrashed
		j.faults = append(j.faults, f)
	}
	return nil
}

// identify finds out who read a client's request, if nobody has answered it.
func (j *journal) identify(o *outcome) {
	if o.server.pid != 0 {
		return
	}
	for _, a := range o.asks {
		if t, ok := j.took[a.Seed]; ok {
			o.server, o.leader = t.server, t.leader
		}
	}
}

// excuse is why a client's loss counts as none. Each is a column of the table.
type excuse int

const (
	noExcuse    excuse = iota
	ownServer          // its own server, which had read its request, was killed or crashed
	unserved           // nobody had read its request yet, and a child was killed or crashed, or a start failed
	proxyEnded         // tiproxy was killed or told to stop
	proxyAbsent        // refused: there was no tiproxy
	handshake          // tiproxy never saw it: the kernel forgot its unfinished handshake when tiproxy's device was down
	excuses
)

// judge finds the excuse for a client that was not served.
func judge(o outcome, faults []fault) excuse {
	if o.ending != refused && o.ending != cut {
		return noExcuse
	}
	for _, f := range faults {
		if f.to < o.from || o.to < f.from {
			continue
		}
		if e := f.excuses(o); e != noExcuse {
			return e
		}
	}
	return noExcuse
}

// excuses is judge for one fault that was at work while the client was there.
func (f fault) excuses(o outcome) excuse {
	known := o.server.pid != 0
	switch f.harm {
	case proxyKilled, proxyStopped:
		if o.ending == refused {
			return proxyAbsent
		}
		// Who is served when tiproxy is told to stop has the drain time.
		drained := f.harm == proxyStopped && !f.hurried
		if drained && known && o.from < f.from && time.Duration(o.to-f.from) < drainTimeout {
			return noExcuse
		}
		return proxyEnded
	case linkDown:
		// A SYN-ACK that is due while there is no route is not repeated: the kernel
		// forgets the handshake, which the client takes for finished, and resets
		// what comes later (reqsk_timer_handler). No program learns of it.
		if f.near && o.far && !known && !o.seen && o.ending == cut {
			return handshake
		}
	case startFailed:
		if !known && o.ending == cut {
			return unserved
		}
	case childKilled, childCrashed:
		switch {
		case o.ending != cut:
		case !known:
			return unserved
		case f.victim == o.server || f.victim == o.leader:
			return ownServer
		}
	}
	return noExcuse
}

// injury is the plan of one fault.
type injury struct {
	at     time.Duration // after the round's beginning, or when the one before is over
	act    func(*round, injury)
	length time.Duration
	pick   uint64 // chooses the victim
}

// victim waits a moment for a child that lives, and picks one of its tree.
func (r *round) victim(pick uint64) (process, bool) {
	var all []process
	poll(time.Second, func() bool {
		all = r.proxy.children()
		return len(all) > 0
	})
	if len(all) == 0 {
		return process{}, false
	}
	return all[pick%uint64(len(all))], true
}

// killChild sends SIGKILL to the child or a grandchild.
func (r *round) killChild(i injury) {
	v, ok := r.victim(i.pick)
	if !ok {
		return
	}
	f := fault{harm: childKilled, from: now(), victim: v.ident, logged: v.ppid == r.proxy.pid()}
	pidfd, err := signalOnly(v.ident, unix.SIGKILL)
	if err != nil {
		return // it ended before
	}
	if !awaitEnd(pidfd) {
		r.problem("process %v does not end after SIGKILL", v)
	}
	f.to = now()
	r.record(f)
}

// stopChild sends SIGSTOP to the child or a grandchild, and SIGCONT later.
func (r *round) stopChild(i injury) {
	if v, ok := r.victim(i.pick); ok {
		r.freeze(v.ident, i.length)
	}
}

// stopProxy sends SIGSTOP to tiproxy, and SIGCONT later.
func (r *round) stopProxy(i injury) {
	if p, ok := readProcess(r.proxy.pid()); ok {
		r.freeze(p.ident, i.length)
	}
}

func (r *round) freeze(id ident, length time.Duration) {
	pidfd, err := signalOnly(id, unix.SIGSTOP)
	if err != nil {
		return
	}
	f := fault{harm: frozen, from: now(), victim: id}
	<-time.After(length)
	unix.Close(pidfd)
	if pidfd, err = signalOnly(id, unix.SIGCONT); err == nil {
		unix.Close(pidfd)
	}
	f.to = now()
	r.record(f)
}

// killProxy sends SIGKILL to tiproxy, looks for what outlives it, and starts
// it again.
func (r *round) killProxy(injury) {
	f := fault{harm: proxyKilled, from: now()}
	r.proxy.end(syscall.SIGKILL, bound)
	began := now()
	left := r.proxy.gone(r.form.outlive)
	r.tally.goneAfter = max(r.tally.goneAfter, began.since())
	if len(left) > 0 {
		r.lose(&r.tally.processes, len(left), "%v after SIGKILL of tiproxy there are still %v", r.form.outlive, left)
		putAway(left)
		r.proxy.gone(bound)
	}
	r.restart(f)
}

// termProxy tells tiproxy to stop, now and then twice, and starts it again. A few
// clients are there then that have more to say, within the drain time.
func (r *round) termProxy(i injury) {
	const stay = 150 * time.Millisecond
	staying := make([]visit, 3)
	for k := range staying {
		staying[k] = r.probe()
		staying[k].habit, staying[k].pause = long, stay
		for range 3 {
			staying[k].asks = append(staying[k].asks, staying[k].asks[0])
		}
	}
	met := make(chan []outcome, 1)
	go func() { met <- r.meet(staying) }()
	<-time.After(2 * stay)
	r.stopAndRestart(i)
	for _, o := range <-met {
		r.book(o)
	}
}

func (r *round) stopAndRestart(i injury) {
	f := fault{harm: proxyStopped, from: now(), hurried: i.pick%3 == 0}
	r.proxy.tree()
	if f.hurried {
		_ = r.proxy.cmd.Process.Signal(syscall.SIGTERM)
		<-time.After(i.length / 4)
	}
	r.proxyEnds(syscall.SIGTERM, 0)
	r.restart(f)
}

// restart starts tiproxy again. Whoever comes now must be served: nothing else
// is injected until the client that is sent has been.
func (r *round) restart(f fault) {
	if !r.launch() {
		return
	}
	f.to = now()
	r.record(f)
	r.welcome(r.probe(), r.probe())
}

// starveAsleep is starve for a tiproxy whose child is not there, if there is
// such a moment soon: then who comes needs a start besides.
func (r *round) starveAsleep(i injury) {
	poll(2*time.Second, func() bool { return len(r.proxy.tree()) == 0 })
	r.starve(i)
}

// starve takes the descriptors away from tiproxy. Who comes meanwhile must
// wait, and be served at once when there are some again.
func (r *round) starve(i injury) {
	pid := r.proxy.pid()
	// At the number it has, and a little above and below.
	old, err := r.proxy.limitFiles(uint64(max(3, descriptors(pid)-2+int(i.pick%6))))
	if err != nil {
		r.problem("lower the limit of descriptors: %v", err)
		return
	}
	f := fault{harm: starved, from: now()}
	r.starved++
	waiting := []visit{r.probe(), r.probe(), r.probe()}
	met := make(chan []outcome, 1)
	go func() { met <- r.meet(waiting) }()
	<-time.After(i.length)
	if _, err := r.proxy.limitFiles(old); err != nil {
		r.problem("raise the limit of descriptors: %v", err)
	}
	raised := now()
	f.to = raised
	r.record(f)
	for _, o := range <-met {
		r.book(o)
		if o.answered > raised {
			r.recovered(time.Duration(o.answered - raised))
		}
	}
}

// recovered notes how long it took until a client was answered that could not
// be before. It is judged only while no child has ended by itself or was killed:
// after that, starts may be held back.
func (r *round) recovered(d time.Duration) {
	r.tally.recovery = max(r.tally.recovery, d)
	if d > r.form.recovery {
		r.slow = append(r.slow, d)
	}
}

// judgeRecovery counts what recovered told, now that all faults are known.
func (r *round) judgeRecovery() {
	if slices.ContainsFunc(r.faults, func(f fault) bool { return f.logged }) {
		return
	}
	for _, d := range r.slow {
		r.lose(&r.tally.late, 1, "%v after there were descriptors again a client got its answer", d)
	}
}

// outage loses everything on the link for a while.
func (r *round) outage(i injury) {
	f := fault{harm: linkCut, from: now()}
	r.lane.link.cut.Store(true)
	<-time.After(i.length)
	r.lane.link.cut.Store(false)
	f.to = now()
	r.record(f)
}

// pullDown brings the device of one side down for a while.
func (r *round) pullDown(i injury) {
	f := fault{harm: linkDown, from: now(), near: i.pick%2 != 0}
	s := r.lane.far
	if f.near {
		s = r.lane.near
	}
	if err := r.lane.link.takeDown(s); err != nil {
		r.problem("%v", err)
	}
	<-time.After(i.length)
	if err := r.lane.link.bringUp(s); err != nil {
		r.problem("%v", err)
	}
	f.to = now()
	r.record(f)
}
