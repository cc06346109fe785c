//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "compare: needs Linux, for its namespaces and for most of the peers")
	os.Exit(2)
}
