// Command tiproxy listens on an address, starts one child process when the
// first client connects, holds the client until the child is ready, carries
// bytes both ways, and stops the child when nobody has been connected for a
// while.
//
// Package main only wires: it turns the command line into checked settings,
// puts the rooms under internal together, and runs until it is told to stop.
// What is always true: nothing is opened or started before the whole command
// line was found right; every exit goes through main and has status 0 (asked
// to stop), 1 (cannot go on) or 2 (wrong command line); and when it exits in
// order, no process of the child's tree is left.
package main

import (
	"os"

	"tiproxy/internal/process"
)

func main() {
	// The keeper is this same program, started to watch over a child's tree.
	// It must come before anything else: it shares nothing with the proxy.
	if process.IsKeeper(os.Args) {
		os.Exit(process.KeeperMain(os.Args))
	}
	// So must what is on its way to become a child.
	if process.IsActivator(os.Args) {
		os.Exit(process.ActivatorMain(os.Args))
	}
	os.Exit(execute(os.Args[1:]))
}
