//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	pageName    = "performance.md"
	jsonName    = "performance.json"
	pictureName = "performance.svg"

	// What make bench writes stands between these lines of the page.
	fromHere = "<!-- make bench writes from here -->\n"
	toHere   = "<!-- to here -->\n"
)

// checkPage says whether the results can be written to a directory's page.
func checkPage(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, pageName))
	if err != nil {
		return err
	}
	_, _, err = around(string(text))
	return err
}

// around returns what stands before and after the results.
func around(text string) (before, after string, err error) {
	before, rest, ok := strings.Cut(text, fromHere)
	_, after, also := strings.Cut(rest, toHere)
	if !ok || !also {
		return "", "", fmt.Errorf("%s has no lines %q and %q", pageName, strings.TrimSpace(fromHere), strings.TrimSpace(toHere))
	}
	return before, after, nil
}

// write puts the results into the page, with picture and JSON beside it.
func (r *results) write(dir, page string) error {
	path := filepath.Join(dir, pageName)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, after, err := around(string(text))
	if err != nil {
		return err
	}
	data, err := r.json()
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		pageName:    before + fromHere + page + toHere + after,
		jsonName:    string(data) + "\n",
		pictureName: r.picture(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// page is the results in Markdown.
func (r *results) page() string {
	r.Load[1] = loadAverage()
	var w strings.Builder
	fmt.Fprintf(&w, "\nMeasured on %s, %d processors (%s), built with %s: Redis %s, nginx %s; %s.\n",
		r.Kernel, r.CPUs, r.Model, r.Go, r.Servers["redis"], r.Servers["nginx"], r.versions())
	fmt.Fprintf(&w, "%d rounds of %v each; the load average was %s before and %s after.\n", r.Rounds, r.Each, r.Load[0], r.Load[1])
	fmt.Fprintf(&w, "Each value is the median of the rounds, with the lowest and the highest one in brackets.\n")
	for _, why := range r.LeftOut {
		fmt.Fprintf(&w, "\nLeft out: %s.\n", why)
	}
	r.speedTable(&w)
	r.table(&w, "How long a request takes", "One connection with one request (Redis PING) at a time, in µs, and the slowest hundredth of the requests above, in ms.",
		[]measure{roundTripP10, roundTripP50, roundTripP90, roundTripP99, redisP99, httpP99})
	r.table(&w, "What it costs", fmt.Sprintf("The proxy's own processes alone: while they carry Redis's requests and one stream, and for each of %d connections on which nothing happens.", r.Idle),
		[]measure{requestsCPU, bulkCPU, idleBytes, idleDescriptors})
	r.ratioTable(&w, theHAProxy)
	r.ratioTable(&w, noProxy)
	r.coldTable(&w)
	r.targetTable(&w)
	return w.String() + "\n"
}

func (r *results) versions() string {
	var all []string
	for _, s := range r.Subjects {
		if s != noProxy {
			all = append(all, s+" "+r.Versions[s])
		}
	}
	return strings.Join(all, ", ")
}

func (r *results) speedTable(w *strings.Builder) {
	r.table(w, "How much goes through", "", speeds)
}

// table has a row for each subject and a column for each measure.
func (r *results) table(w *strings.Builder, title, text string, columns []measure) {
	fmt.Fprintf(w, "\n### %s\n\n", title)
	if text != "" {
		fmt.Fprintf(w, "%s\n\n", text)
	}
	heading(w, columns)
	for _, who := range r.Subjects {
		row := []string{who}
		known := false
		for _, m := range columns {
			cell := "–"
			if s, ok := r.spread(who, m); ok {
				cell, known = s.show(m.unit, m.digits), true
			}
			row = append(row, cell)
		}
		if known {
			line(w, row...)
		}
	}
}

// ratioTable compares everybody with one of them.
func (r *results) ratioTable(w *strings.Builder, to string) {
	if _, there := r.Values[to]; !there {
		return
	}
	fmt.Fprintf(w, "\n### Compared with %s\n\nThe median of the ratios of two values of the same round.\n\n", to)
	var bare []measure
	for _, m := range speeds {
		bare = append(bare, measure{title: m.plain()})
	}
	heading(w, bare)
	for _, who := range r.Subjects {
		if who == to {
			continue
		}
		row := []string{who}
		for _, m := range speeds {
			s, _ := r.ratio(who, to, m)
			row = append(row, s.show(1, 2))
		}
		line(w, row...)
	}
}

func heading(w *strings.Builder, columns []measure) {
	row, rule := []string{""}, []string{"---"}
	for _, m := range columns {
		row, rule = append(row, m.title), append(rule, "--:")
	}
	line(w, row...)
	line(w, rule...)
}

func line(w *strings.Builder, cells ...string) {
	fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
}

func (r *results) coldTable(w *strings.Builder) {
	w.WriteString("\n### The first client of a child that sleeps\n\nFrom connect to the first byte, without the time from the child's exec until it listens, in ms. " +
		"How long it takes to have the same child executed without any proxy is in the last column, and is part of all others.\n\n")
	line(w, "", "the child listens after", "starts", "median", "p90", "p99", "longest", "without proxy")
	line(w, "---", "--:", "--:", "--:", "--:", "--:", "--:", "--:")
	for _, who := range r.ours() {
		for _, c := range r.Cold[who] {
			line(w, who, fmt.Sprint(c.Delay.Milliseconds()), fmt.Sprint(c.Starts), millis(c.Median), millis(c.P90), millis(c.P99), millis(c.Max), millis(c.WithoutProxy))
		}
	}
}

func (r *results) targetTable(w *strings.Builder) {
	w.WriteString("\n### Targets\n\n")
	line(w, "", "wanted", "measured", "")
	line(w, "---", "---", "---", "---")
	for _, t := range r.targets() {
		verdict := "**missed**"
		if t.met {
			verdict = "met"
		}
		line(w, t.what, t.wanted, t.got, verdict)
	}
}
