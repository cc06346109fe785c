//go:build !linux

package main

// shed does nothing here.
func shed() {}
