package proxy

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// room tells whether enough descriptors are free. The zero value is ready.
type room struct {
	mu    sync.Mutex
	asked time.Time
	there bool
}

// enough reports whether headroom is there, or was a moment ago.
func (r *room) enough() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.asked) >= roomEvery {
		r.asked, r.there = time.Now(), canOpen(min(headroom, descriptorLimit()/8))
	}
	return r.there
}

// canOpen tries. Those who get none in that instant try again.
func canOpen(n int) bool {
	fds := make([]int, 0, n)
	for range n {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			break
		}
		fds = append(fds, fd)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return len(fds) == n
}

// descriptorLimit is the limit on open files (RLIMIT_NOFILE in getrlimit(2)).
func descriptorLimit() int {
	const huge = 1 << 30
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil || r.Cur > huge {
		return huge
	}
	return int(r.Cur)
}
