package admin

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// eventsMost is how many events are remembered.
	eventsMost = 1000
	// eventsBehind is how many events a reader may be behind.
	eventsBehind = 256
)

// Journal remembers the newest events and hands new ones to whoever follows.
// Its methods are safe for concurrent use and do not block.
type Journal struct {
	epoch string // what ids of this journal begin with

	mu      sync.Mutex
	seq     uint64 // of the newest event
	past    []entry
	readers map[*reader]struct{}
}

// entry is an event with its number, counted from 1.
type entry struct {
	seq   uint64
	event Event
}

// reader is somebody who follows a journal.
type reader struct {
	c chan entry // closed when the reader is dismissed or too far behind
}

// NewJournal returns an empty journal.
func NewJournal() *Journal {
	var b [4]byte
	// It never fails: crypto/rand.
	_, _ = rand.Read(b[:])
	return &Journal{epoch: hex.EncodeToString(b[:]), readers: make(map[*reader]struct{})}
}

// Tell remembers what happened. At is filled in if it is zero. A nil Journal
// remembers nothing.
func (j *Journal) Tell(ev Event) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if ev.At.IsZero() {
		ev.At = time.Now()
	}
	j.seq++
	e := entry{j.seq, ev}
	if len(j.past) == eventsMost {
		j.past[0] = entry{}
		j.past = j.past[1:]
	}
	j.past = append(j.past, e)
	for r := range j.readers {
		select {
		case r.c <- e:
		default:
			j.dismissLocked(r)
		}
	}
}

// follow returns the remembered events behind number after, and a reader of all
// later ones.
func (j *Journal) follow(after uint64) ([]entry, *reader) {
	j.mu.Lock()
	defer j.mu.Unlock()
	past := j.past
	for len(past) > 0 && past[0].seq <= after {
		past = past[1:]
	}
	r := &reader{c: make(chan entry, eventsBehind)}
	j.readers[r] = struct{}{}
	return append([]entry(nil), past...), r
}

// dismiss ends a reader.
func (j *Journal) dismiss(r *reader) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.dismissLocked(r)
}

func (j *Journal) dismissLocked(r *reader) {
	if _, on := j.readers[r]; on {
		delete(j.readers, r)
		close(r.c)
	}
}

// id is how a number is told. That of another life of tiproxy is none of ours.
func (j *Journal) id(seq uint64) string { return fmt.Sprintf("%s-%d", j.epoch, seq) }

// number returns what id told, 0 if it was not this journal.
func (j *Journal) number(id string) uint64 {
	digits, ok := strings.CutPrefix(id, j.epoch+"-")
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
