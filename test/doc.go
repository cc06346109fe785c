// Package e2e tests the tiproxy binary from outside, as its users meet it: real
// servers behind it, their own clients in front of it, signals, terminals,
// namespaces and sudden death. It imports nothing of tiproxy, so it can judge
// any build: BIN_UNDER_TEST=/path/to/tiproxy go test ./test/
//
// Always true here: every tiproxy that a test starts is known to the harness,
// and a test passes only if nothing of it is left afterwards (no process, no
// zombie, no open stream) and it logged no warning or error that the test did
// not name. Nothing is waited for without a bound, and nothing by sleeping.
//
// The misbehaving servers are this test binary itself, started with the word
// "role" as its first argument.
package e2e
