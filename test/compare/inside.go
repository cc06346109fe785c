//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// cellTime bounds a cell; those that wait for something that does not come
// know shorter bounds of their own.
const cellTime = 25 * time.Second

// cell is what one peer did in one row.
type cell struct {
	verdict
	applies bool
}

// inside tries every row on every peer, one cell after the other, and prints
// the page. The first word is a directory for its files, with tiproxy in it. The error says that the harness could not do its work.
func inside(words []string) (int, error) {
	dir := words[0]
	o, err := parseOptions(words[1:])
	if err != nil {
		return statusUnable, err
	}
	if err := enterWorld(); err != nil {
		return statusUnable, err
	}
	peers, err := chosen(allPeers(filepath.Join(dir, "tiproxy")), o.peers)
	if err != nil {
		return statusUnable, err
	}
	rows, err := numbered(o.rows)
	if err != nil {
		return statusUnable, err
	}
	p := page{rows: rows}
	for _, one := range peers {
		if err := p.invite(one); err != nil {
			return statusUnable, err
		}
	}
	broken, err := p.fill(dir)
	if err != nil {
		return statusUnable, err
	}
	fmt.Print(p.markdown())
	if broken > 0 {
		fmt.Fprintf(os.Stderr, "compare: tiproxy breaks %d promises\n", broken)
		return statusBroken, nil
	}
	return statusFine, nil
}

// fill tries all cells and counts the promises that tiproxy broke.
func (p *page) fill(dir string) (broken int, err error) {
	number := 0
	for _, f := range p.rows {
		var line []cell
		for _, one := range p.peers {
			number++
			begin := time.Now()
			c, err := tryCell(one, f, dir, number)
			if err != nil {
				return broken, fmt.Errorf("row %d (%s), %s: %w", f.number, f.name, one.name(), err)
			}
			fmt.Fprintf(os.Stderr, "compare: %3d %-12.12s %5.1f s  %s\n", f.number, one.name(), time.Since(begin).Seconds(), c.mark(f))
			if t, ok := one.(tiproxyPeer); ok && c.applies && !c.ok && f.promised(t) {
				fmt.Fprintf(os.Stderr, "compare: NOT KEPT: fault %d, %s: %s\n", f.number, f.name, c.text)
				broken++
			}
			line = append(line, c)
		}
		p.cells = append(p.cells, line)
	}
	return broken, nil
}

// promised says whether tiproxy's own cell has to be right in this build.
func (f fault) promised(t tiproxyPeer) bool {
	switch f.promise {
	case kept:
		return true
	case claimed:
		return t.knows(map[int]string{82: "--max-per-source", 85: "--proxy-protocol"}[f.number])
	default:
		return false
	}
}

// tryCell begins and ends with nobody there.
func tryCell(p peer, f fault, dir string, number int) (c cell, err error) {
	if f.only != nil && !f.only(p.traits()) {
		return cell{}, nil
	}
	s, err := newStand(p, dir, number)
	if err != nil {
		return cell{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), cellTime)
	defer cancel()
	v, err := f.try(ctx, s)
	cleared := clearWorld(context.Background())
	if _, ours := p.(tiproxyPeer); err != nil && ctx.Err() != nil && !ours {
		v, err = bad("not ready to be tried in %s", short(cellTime)), nil // on a busy machine, for those who need much of it
	}
	if err != nil && s.proxy != nil {
		err = fmt.Errorf("%w; the peer's output: %s", err, s.proxy.out.tail())
	}
	return cell{v, true}, errors.Join(err, cleared)
}
