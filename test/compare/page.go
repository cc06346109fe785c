//go:build linux

package main

import (
	_ "embed"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// introduction is what stands above the table, and notes what stands below it.
var (
	//go:embed introduction.md
	introduction string
	//go:embed notes.md
	notes string
)

// page is the table and what is said around it.
type page struct {
	rows     []fault
	peers    []peer
	versions []string
	missing  []string
	cells    [][]cell // by row, then by peer
}

// invite adds a column, or the name of a peer that is not installed. tiproxy is
// no such peer: without it there is nothing to compare.
func (p *page) invite(one peer) error {
	version := one.version()
	if t, ok := one.(tiproxyPeer); ok && version == "" {
		return fmt.Errorf("%s does not say its version: it is no tiproxy", t.path)
	}
	if version == "" {
		p.missing = append(p.missing, one.name())
		return nil
	}
	p.peers = append(p.peers, one)
	p.versions = append(p.versions, version)
	return nil
}

func (p *page) markdown() string {
	var out strings.Builder
	out.WriteString(introduction + "\n")
	out.WriteString(p.environment() + "\n\n")
	out.WriteString("| fault | what is tried |")
	for _, one := range p.peers {
		fmt.Fprintf(&out, " %s |", one.name())
	}
	out.WriteString("\n|" + strings.Repeat(" --- |", len(p.peers)+2) + "\n")
	for i, f := range p.rows {
		out.WriteString(f.heading())
		for _, c := range p.cells[i] {
			fmt.Fprintf(&out, " %s |", strings.ReplaceAll(c.mark(f), "|", `\|`))
		}
		out.WriteString("\n")
	}
	out.WriteString("\n" + notes)
	return out.String()
}

// The marks between which another page shows the table.
const (
	tableBegins = "<!-- the table of make compare -->\n"
	tableEnds   = "<!-- its end -->\n"
)

// putTable replaces the table that the file shows by that of the page.
func putTable(path, page string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(old), tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	_, table, seen := strings.Cut(page, "\nSeen on:\n")
	table, _, noted := strings.Cut(table, "\n## ")
	if !begins || !ends || !seen || !noted {
		return fmt.Errorf("%s does not mark where the table goes, or there is none on the page", path)
	}
	text := before + tableBegins + "\n" + strings.TrimSpace(table) + "\n\n" + tableEnds + after
	return os.WriteFile(path, []byte(text), 0o644)
}

// heading is the beginning of a row.
func (f fault) heading() string { return fmt.Sprintf("| %d | %s |", f.number, f.name) }

// mark is a cell as it is printed.
func (c cell) mark(f fault) string {
	switch {
	case !c.applies:
		return "–"
	case f.measure:
		return c.text
	case c.ok:
		return "✓ " + c.text
	default:
		return "✗ " + c.text
	}
}

// environment names what was compared where, without a date: the same machine
// and the same versions give the same line.
func (p *page) environment() string {
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("unknown")
	}
	line := fmt.Sprintf("Linux %s, %d CPUs", strings.TrimSpace(string(kernel)), runtime.NumCPU())
	for i, one := range p.peers {
		line += fmt.Sprintf("; %s %s", one.name(), p.versions[i])
	}
	if len(p.missing) > 0 {
		line += "; not installed: " + strings.Join(p.missing, ", ")
	}
	return line + "."
}
