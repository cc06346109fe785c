package process

import (
	"golang.org/x/sys/unix"
)

// disinherit sees to it that what this thread starts inherits no capability,
// until the function it returns is called. Becoming another user takes them from
// root only (capabilities(7), "Effect of user ID changes on capabilities"): a
// child of another user would find what a plain user was lent as ambient
// capabilities, the right to become root among them. The keeper needs them.
func (h *Host) disinherit() (restore func()) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil || caps[0].Inheritable|caps[1].Inheritable == 0 {
		return func() {}
	}
	ambient := ambientCaps()
	none := caps
	none[0].Inheritable, none[1].Inheritable = 0, 0
	// Giving up is always allowed, and takes the ambient ones along.
	if err := unix.Capset(&header, &none[0]); err != nil {
		h.log.Warn("the child inherits capabilities that cannot be taken away", "err", err)
	}
	return func() { h.inherit(&header, &caps, ambient) }
}

func (h *Host) inherit(header *unix.CapUserHeader, caps *[2]unix.CapUserData, ambient []uintptr) {
	err := unix.Capset(header, &caps[0])
	for _, c := range ambient {
		if err == nil {
			err = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0)
		}
	}
	if err != nil {
		h.log.Warn("capabilities cannot be handed to the keeper any more", "err", err)
	}
}

func ambientCaps() (all []uintptr) {
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		on, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, c, 0, 0)
		if err == nil && on == 1 {
			all = append(all, c)
		}
	}
	return all
}
