package config

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// Quantity is how much there is of something that is counted, or measured in
// bytes.
type Quantity struct {
	N     int64
	Bytes bool // it was written with a unit, so it can be compared to bytes only
}

// String writes q with the largest unit that leaves it whole.
func (q Quantity) String() string {
	for _, u := range slices.Backward(units) {
		if q.Bytes && strings.HasSuffix(u.name, "iB") && q.N >= u.size && q.N%u.size == 0 {
			return strconv.FormatInt(q.N/u.size, 10) + u.name
		}
	}
	if q.Bytes {
		return strconv.FormatInt(q.N, 10) + "B"
	}
	return strconv.FormatInt(q.N, 10)
}

type unit struct {
	name string
	size int64 // in bytes
}

// units are those of bytes, in the order of their size.
var units = func() []unit {
	all := []unit{{"B", 1}}
	decimal, binary := int64(1), int64(1)
	for _, letter := range []string{"K", "M", "G", "T", "P"} {
		decimal, binary = decimal*1000, binary*1024
		all = append(all, unit{letter, decimal}, unit{letter + "B", decimal}, unit{letter + "i", binary}, unit{letter + "iB", binary})
	}
	return all
}()

// ParseAmount reads a number: alone, such as 3, or with a unit of bytes, such as
// 16GiB (of 1024 MiB) or 1.5GB (of 1000 MB). A B at the end may be left out.
func ParseAmount(s string) (Quantity, error) {
	const digits = 30
	number := strings.TrimRightFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	unit := s[len(number):]
	switch {
	case s == "":
		return Quantity{}, errors.New("is empty: write for example 16GiB, or 2")
	case strings.HasPrefix(s, "-"):
		return Quantity{}, fmt.Errorf("%q is negative: write for example 16GiB, or 2", excerpt(s))
	case !isDecimal(number) || len(number) > digits || strings.Trim(number, ".") != number:
		return Quantity{}, fmt.Errorf("%q is no amount: write for example 16GiB, or 2", excerpt(s))
	}
	size, err := unitSize(s, number, unit)
	if err != nil {
		return Quantity{}, err
	}
	r, _ := new(big.Rat).SetString(number)
	r.Mul(r, new(big.Rat).SetInt64(size))
	n := new(big.Int).Quo(r.Num(), r.Denom())
	switch {
	case !n.IsInt64():
		return Quantity{}, fmt.Errorf("%q is too much: write at most 8000PiB", s)
	case unit == "" && !r.IsInt():
		return Quantity{}, fmt.Errorf("%q is not whole: count in smaller pieces", s)
	}
	return Quantity{N: n.Int64(), Bytes: unit != ""}, nil
}

// unitSize is how many bytes a unit has; no unit has one of whatever is counted.
func unitSize(s, number, unit string) (int64, error) {
	if unit == "" {
		return 1, nil
	}
	for _, u := range units {
		switch {
		case u.name == unit:
			return u.size, nil
		case strings.EqualFold(u.name, strings.TrimSpace(unit)):
			return 0, fmt.Errorf("%q: write %s%s", s, number, u.name)
		}
	}
	return 0, fmt.Errorf("%q has an unknown unit: write KiB, MiB, GiB or TiB, or none for what is counted", excerpt(s))
}
