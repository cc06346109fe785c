// Program compare tries the same faults on tiproxy and on its peers and prints
// what it saw as a Markdown table:
//
//	go run ./test/compare --out docs/compare.md
//
// Always true here: every cell comes from an observation of this run, and a
// cell that does not apply says so instead of counting against anybody. All of
// it happens in network and PID namespaces of its own, so that no port, no
// process and no signal can touch anything else; each cell begins with nobody
// there, and ends within a bound. A peer that does badly is a result; only
// tiproxy breaking a promise, or the harness itself, is a failure.
//
// It imports nothing of tiproxy, so it can judge any build (BIN_UNDER_TEST).
package main
