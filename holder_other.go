//go:build !linux

package main

// portHolder finds nobody: this system has no way that needs no other program.
func portHolder(uint16) (pid int, name string) { return 0, "" }

// portUse finds nobody here.
func portUse(uint16) string { return "" }
