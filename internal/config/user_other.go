//go:build !linux

package config

import (
	"fmt"
	"os"
	"syscall"
)

// mayBecome says what tiproxy lacks to start a child of user u.
func mayBecome(u *User) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return fmt.Errorf("a child of %v can be started by root only: start tiproxy so, or leave it out", u)
}

// asUser runs look with tiproxy's own rights: what u may not use shows when
// the child is started.
func asUser(_ *User, look func()) { look() }

func mayEnter(dir string) bool {
	const enter = 1 // X_OK of access(2)
	return syscall.Access(dir, enter) == nil
}
