// Package soak puts the tiproxy binary between clients and servers that both
// misbehave, on networks that do too, and counts what was lost.
//
// Always true here: a client that no injected fault has touched must be served
// byte for byte, whatever the link under it did; a client may see a reset only
// if a fault that can cause one was at work on its own server, or on tiproxy,
// while the client was there, and each such excuse is counted in a column of
// its own. Links that lose, delay, reorder, duplicate or go down, stopped
// processes and missing descriptors excuse nothing: they may only make things
// slow. (One exception is the kernel's: it forgets an unfinished handshake whose
// SYN-ACK is due while the device is down. tiproxy never sees such a client.)
//
// One seed decides who comes when and what goes wrong; the kernel's scheduling
// is not decided by it. Times are read from CLOCK_MONOTONIC only. The servers
// are this test binary itself, started with the word "role", and redis-server.
// It imports nothing of tiproxy: BIN_UNDER_TEST=/path/to/tiproxy judges another build.
package soak
