package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// markName is the variable by which tiproxy recognises its child's tree.
const markName = "TIPROXY_CHILD"

// ParseDuration reads a duration in Go's notation, such as 30s, 1m30s or
// 250ms. 0 needs no unit; anything else does, and nothing is negative.
func ParseDuration(s string) (time.Duration, error) {
	if s == "" {
		return 0, errors.New("is empty: write for example 30s, or 0")
	}
	d, err := time.ParseDuration(s)
	switch {
	case err == nil && d < 0:
		return 0, fmt.Errorf("%q is negative: write %s, or 0", s, strings.TrimLeft(s, "-"))
	case err == nil:
		return d, nil
	}
	return 0, explainDuration(s)
}

// explainDuration says what is wrong with a duration that Go refused.
func explainDuration(s string) error {
	number := strings.TrimRight(s, "dDwW")
	n, numErr := strconv.ParseFloat(number, 64)
	switch days := len(number) == len(s)-1; {
	case strings.TrimSpace(s) != s:
		return fmt.Errorf("%q has blanks around it: write %q", s, strings.TrimSpace(s))
	case numErr == nil && number == s && n >= 0 && isDecimal(s):
		return fmt.Errorf("%q has no unit: write %ss", s, s)
	case numErr == nil && days && n > 0 && n < 100_000 && isDecimal(number):
		hours := n * 24
		if last := s[len(s)-1]; last == 'w' || last == 'W' {
			hours *= 7
		}
		return fmt.Errorf("%q: the largest unit is h: write %sh", s, strconv.FormatFloat(hours, 'f', -1, 64))
	case isOutOfRange(s):
		return fmt.Errorf("%q is too long: write at most 2562047h, or 0", s)
	}
	return fmt.Errorf("%q is not a duration: write for example 250ms, 30s or 1h30m", s)
}

// isDecimal is true for digits with at most one point, which is what may stand
// before a unit: no sign, no exponent, no "inf".
func isDecimal(s string) bool {
	return s != "" && strings.Trim(s, "0123456789.") == "" && strings.Count(s, ".") <= 1
}

// isOutOfRange is true when s is written like a duration, so that only its
// size can have been the reason to refuse it.
func isOutOfRange(s string) bool {
	digits := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if digits <= 0 {
		return false
	}
	_, err := time.ParseDuration("1" + s[digits:])
	return err == nil
}

// signals are the stop signals that make sense, most usual first. Signals that
// cannot end or inform a program (STOP, CONT, CHLD …) are left out.
var signals = []struct {
	name string
	sig  syscall.Signal
}{
	{"TERM", syscall.SIGTERM},
	{"INT", syscall.SIGINT},
	{"QUIT", syscall.SIGQUIT},
	{"HUP", syscall.SIGHUP},
	{"KILL", syscall.SIGKILL},
	{"USR1", syscall.SIGUSR1},
	{"USR2", syscall.SIGUSR2},
	{"WINCH", syscall.SIGWINCH},
	{"ABRT", syscall.SIGABRT},
	{"ALRM", syscall.SIGALRM},
}

// SignalNames lists the names that ParseSignal takes, most usual first.
func SignalNames() []string {
	names := make([]string, len(signals))
	for i, s := range signals {
		names[i] = s.name
	}
	return names
}

// ParseSignal reads a signal's name, with or without SIG, in any case.
func ParseSignal(s string) (syscall.Signal, error) {
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for _, known := range signals {
		if known.name == name {
			return known.sig, nil
		}
	}
	if n, err := strconv.Atoi(s); err == nil {
		i := slices.IndexFunc(signals, func(k struct {
			name string
			sig  syscall.Signal
		}) bool {
			return int(k.sig) == n
		})
		if i >= 0 {
			return 0, fmt.Errorf("%q is a number, which differs from system to system: write %s", s, signals[i].name)
		}
	}
	return 0, fmt.Errorf("%q is not known: write one of %s", s, strings.Join(SignalNames(), ", "))
}

// CheckEnv checks one KEY=VALUE for the child's environment.
func CheckEnv(s string) error {
	key, _, found := strings.Cut(s, "=")
	switch {
	case hasNUL(s):
		return fmt.Errorf("%q contains a NUL byte, which no program can receive", key)
	case !found && key == "":
		return errors.New("is empty: write KEY=VALUE")
	case !found && strings.ContainsFunc(key, isUnprintable):
		return fmt.Errorf("%q has no value: write KEY=VALUE", key)
	case !found:
		return fmt.Errorf("%q has no value: write %s=VALUE, or %s= for an empty one", s, s, s)
	case key == "":
		return errors.New("has no name before the =: write KEY=VALUE")
	case key == markName:
		return fmt.Errorf("%s is set by tiproxy itself: leave it out", markName)
	}
	return nil
}

func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 }
