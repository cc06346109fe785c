package config

import (
	"errors"
	"fmt"
	"strings"
)

// SplitWords splits a command line into words as a shell does: at blanks,
// unless they are quoted by '…', "…" or \. Nothing is expanded. What a shell
// would do more than that with (variables, pipes, lists, redirections) is
// refused rather than handed on as it stands. There is one word at least, and
// the first is not empty.
func SplitWords(line string) ([]string, error) {
	s := splitter{line: line}
	for !s.done() {
		if err := s.next(); err != nil {
			return nil, err
		}
	}
	s.endWord()
	switch {
	case len(s.words) == 0:
		return nil, errors.New("there is no command: write for example exec:pg_isready -q")
	case s.words[0] == "":
		return nil, fmt.Errorf("%q begins with an empty word: write the program first", line)
	}
	return s.words, nil
}

// splitter is a command line that is being split.
type splitter struct {
	line  string
	at    int // the next byte
	words []string
	word  strings.Builder
	open  bool // a word has begun, which may be empty: ''
}

func (s *splitter) done() bool { return s.at >= len(s.line) }

// take returns the next byte, and goes on.
func (s *splitter) take() byte {
	c := s.line[s.at]
	s.at++
	return c
}

func (s *splitter) add(c byte) {
	s.open = true
	s.word.WriteByte(c)
}

func (s *splitter) endWord() {
	if s.open {
		s.words = append(s.words, s.word.String())
	}
	s.word.Reset()
	s.open = false
}

// next takes a blank, a quoted piece or a plain byte.
func (s *splitter) next() error {
	switch c := s.take(); {
	case c == ' ' || c == '\t' || c == '\n':
		s.endWord()
	case c == '\'':
		return s.single()
	case c == '"':
		return s.double()
	case c == '\\' && s.done():
		return fmt.Errorf("%q ends with a lone backslash: leave it out, or write it twice", s.line)
	case c == '\\':
		s.add(s.take())
	case strings.IndexByte("$`|&;<>()", c) >= 0:
		return s.needsShell(c)
	default:
		s.add(c)
	}
	return nil
}

// single takes what is between single quotes: everything as it stands.
func (s *splitter) single() error {
	end := strings.IndexByte(s.line[s.at:], '\'')
	if end < 0 {
		return s.unclosed('\'')
	}
	s.open = true
	s.word.WriteString(s.line[s.at : s.at+end])
	s.at += end + 1
	return nil
}

// double takes what is between double quotes, where a backslash means something
// only in front of what would mean something else (POSIX.1-2017, XCU 2.2.3).
func (s *splitter) double() error {
	s.open = true
	for !s.done() {
		switch c := s.take(); {
		case c == '"':
			return nil
		case c == '\\' && !s.done() && strings.IndexByte("$`\"\\", s.line[s.at]) >= 0:
			s.add(s.take())
		case c == '$' || c == '`':
			return s.needsShell(c)
		default:
			s.add(c)
		}
	}
	return s.unclosed('"')
}

func (s *splitter) unclosed(quote byte) error {
	return fmt.Errorf("%q: a quote (%c) is not closed: close it, or write \\%c for the sign itself", s.line, quote, quote)
}

func (s *splitter) needsShell(c byte) error {
	return fmt.Errorf("%q: no shell reads this, so %c would mean nothing: quote it, or let a shell do it: exec:sh -c '...'", s.line, c)
}
