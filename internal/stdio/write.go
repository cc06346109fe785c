package stdio

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// writeSome writes some of p, at least one byte, and blocks until it can. The
// descriptor is shared with whoever started tiproxy, who may switch its
// O_NONBLOCK at any time (fcntl(2): the flag belongs to the open file
// description), so both ways to be told "not now" are waited out.
func writeSome(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Write(fd, p)
		switch {
		case n > 0:
			return n, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if err := waitWritable(fd); err != nil {
				return 0, err
			}
		case err != nil:
			return 0, err
		default:
			return 0, io.ErrShortWrite
		}
	}
}

// waitWritable waits until write(2) on fd would not answer EAGAIN. An error or
// hang-up of the other end counts as writable: the write then tells.
func waitWritable(fd int) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for {
		_, err := unix.Poll(fds, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// passing reports whether err of a write to fd is one of those that pass: the
// disk or quota is full, the file is as large as it may be (write(2), setrlimit(2)
// for RLIMIT_FSIZE), or its disk has failed. On anything but a file EIO is for
// good: a terminal that has hung up.
func passing(fd int, err error) bool {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EFBIG):
		return true
	case errors.Is(err, unix.EIO):
		var st unix.Stat_t
		return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
	}
	return false
}
