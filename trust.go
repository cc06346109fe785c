package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"tiproxy/internal/config"
)

// warnChangeable tells root that others decide what it is going to run as root.
func (p *program) warnChangeable(cfg config.Service) {
	if u := cfg.User; os.Geteuid() != 0 || u != nil && u.UID != 0 {
		return
	}
	if at := changeable(cfg.Path); at != "" {
		p.log.Warn("others than root may change the program that root runs", "program", cfg.Path, "at", at,
			"hint", "let root own the program and the directories above it, and nobody else write there; or run tiproxy as another user")
	}
}

// changeable returns what others than root may write on the way to the file at
// path, itself included, or "" if there is nothing like that.
func changeable(path string) string {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "" // gone by now: the start will tell
	}
	if othersMay("/") {
		return "" // in a user namespace that does not know root
	}
	for ; ; path = filepath.Dir(path) {
		if othersMay(path) {
			return path
		}
		if path == filepath.Dir(path) {
			return ""
		}
	}
}

// othersMay reports whether others than root may write path. In a directory
// with the sticky bit nobody may replace what root owns: see chmod(2).
func othersMay(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	if st.Uid != 0 {
		return true
	}
	const group, others = 0o020, 0o002
	mode := info.Mode()
	if info.IsDir() && mode&fs.ModeSticky != 0 {
		return false
	}
	return mode.Perm()&others != 0 || mode.Perm()&group != 0 && st.Gid != 0
}
