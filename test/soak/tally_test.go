//go:build linux

package soak

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// tally is a row of the table.
type tally struct {
	rounds, clients, served, left, faults int64
	packets                               int64 // that the link lost
	up, down                              int64 // bytes of the served, confirmed by hash and comparison
	excused                               [excuses]int64

	// The losses. Each must be 0.
	lost, wrong               int64 // bytes
	refused, cut, stranded    int64 // honest clients
	processes, zombies        int64
	descriptors, goroutines   int64 // more than a calm tiproxy has
	lines                     int64 // of the log that no fault explains
	late                      int64 // ends and recoveries that took too long, wrong exit statuses
	wait, recovery, goneAfter time.Duration
}

// losses are the columns that must be 0.
func (t *tally) losses() []*int64 {
	return []*int64{&t.lost, &t.wrong, &t.refused, &t.cut, &t.stranded, &t.processes, &t.zombies, &t.descriptors, &t.goroutines, &t.lines, &t.late}
}

func (t *tally) lossless() bool {
	for _, n := range t.losses() {
		if *n != 0 {
			return false
		}
	}
	return true
}

// counts are all columns that add up.
func (t *tally) counts() []*int64 {
	all := []*int64{&t.rounds, &t.clients, &t.served, &t.left, &t.faults, &t.packets, &t.up, &t.down}
	for i := range t.excused {
		all = append(all, &t.excused[i])
	}
	return append(all, t.losses()...)
}

func (t *tally) add(u *tally) {
	for i, n := range u.counts() {
		*t.counts()[i] += *n
	}
	t.wait, t.recovery, t.goneAfter = max(t.wait, u.wait), max(t.recovery, u.recovery), max(t.goneAfter, u.goneAfter)
}

const (
	tableHead = "scenario\trounds\tfaults\tpackets\tclients\tserved\tleft\tMB up\tMB down\t" +
		"own server\tunserved\tproxy ended\tno proxy\thandshake\t│\tlost B\twrong B\trefused\tcut\tstranded\tprocs\tzombies\tfds\tgoroutines\tlog lines\tlate\t│\tlongest wait\trecovery\tgone after\t\n"
	tableAbove = "\t\t\tlost\t\t\t\t\t\texcused:\t\t\t\t\t│\tlosses:\t\t\t\t\t\t\t\t\t\t\t│\t\t\t\t\n"
)

// row writes a line of the table.
func (t *tally) row(b *strings.Builder, name string) {
	fmt.Fprintf(b, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f\t%.1f\t", name, t.rounds, t.faults, t.packets, t.clients, t.served, t.left, float64(t.up)/1e6, float64(t.down)/1e6)
	fmt.Fprintf(b, "%d\t%d\t%d\t%d\t%d\t│\t", t.excused[ownServer], t.excused[unserved], t.excused[proxyEnded], t.excused[proxyAbsent], t.excused[handshake])
	for _, n := range t.losses() {
		fmt.Fprintf(b, "%d\t", *n)
	}
	fmt.Fprintf(b, "│\t%v\t%v\t%v\t\n", t.wait.Round(time.Millisecond), t.recovery.Round(time.Millisecond), t.goneAfter.Round(time.Millisecond))
}

// table is the account of all rounds, a row for each scenario.
func table(names []string, rows map[string]*tally) (text string, total tally) {
	var b strings.Builder
	b.WriteString(tableAbove + tableHead)
	for _, name := range names {
		if t := rows[name]; t != nil {
			t.row(&b, name)
			total.add(t)
		}
	}
	total.row(&b, "all")
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 1, ' ', tabwriter.AlignRight)
	_, _ = w.Write([]byte(b.String()))
	_ = w.Flush()
	return out.String(), total
}
