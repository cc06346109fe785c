package direct

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// maps are what the program in the kernel and we share.
type maps struct {
	gate    *ebpf.Map // one number: 0 leads nobody anywhere
	sockets *ebpf.Map // the child's listening sockets; the kernel drops those that are closed
	begun   *ebpf.Map // connections led to the child, by processor
}

// kernel is our program at work. Its methods are safe for concurrent use.
//
// The gate is open while nothing speaks against it. Every reason is a bit of
// its own, so that one does not undo another.
//
// A nil kernel is that of an inherited listener: there is nothing to lead, as the
// child takes its clients itself.
type kernel struct {
	mu     sync.Mutex // held for bpf(2) too, which does not wait for anything
	maps   maps
	link   link.Link
	closed bool
	shut   shutReason
}

type shutReason uint8

const (
	shutEmpty   shutReason = 1 << iota // there is nothing to lead to
	shutRetired                        // it is being decided whether to stop the child
	shutDrained                        // tiproxy stops
)

// attach loads the program and lets this network namespace use it. It ends
// with close, or with this process.
func attach(at place) (*kernel, error) {
	k := &kernel{shut: shutEmpty}
	if err := k.load(at); err != nil {
		k.close()
		return nil, err
	}
	return k, nil
}

func (k *kernel) load(at place) (err error) {
	for _, m := range []struct {
		to   **ebpf.Map
		spec ebpf.MapSpec
	}{
		{&k.maps.gate, ebpf.MapSpec{Name: "tiproxy_gate", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}},
		{&k.maps.sockets, ebpf.MapSpec{Name: "tiproxy_sockets", Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: slots}},
		{&k.maps.begun, ebpf.MapSpec{Name: "tiproxy_begun", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1}},
	} {
		if *m.to, err = ebpf.NewMap(&m.spec); err != nil {
			return explain(err)
		}
	}
	prog, err := ebpf.NewProgram(program(at, &k.maps))
	if err != nil {
		return explain(err)
	}
	defer prog.Close() // the link keeps it
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("find the network namespace: %w", err)
	}
	defer ns.Close()
	if k.link, err = link.AttachNetNs(int(ns.Fd()), prog); err != nil {
		return explain(err)
	}
	return nil
}

// explain says what is missing for the kernel to take the program.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("the kernel does not allow it, it needs root or CAP_BPF and CAP_NET_ADMIN: %w", err)
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("the kernel cannot do it, it takes Linux 5.9 with BPF: %w", err)
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("this network namespace has as many sk_lookup programs as it takes: %w", err)
	}
	return fmt.Errorf("load and attach an sk_lookup program: %w", err)
}

// close takes the program away from the kernel.
func (k *kernel) close() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return
	}
	k.closed = true
	if k.link != nil {
		k.link.Close() // what it could report would change nothing
	}
	for _, m := range []*ebpf.Map{k.maps.gate, k.maps.sockets, k.maps.begun} {
		if m != nil {
			m.Close()
		}
	}
}

// speak adds and takes away reasons to keep the gate shut, and sets it.
func (k *kernel) speak(add, take shutReason) error {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.shut = k.shut&^take | add
	open := uint32(0)
	if k.shut == 0 {
		open = 1
	}
	if k.closed {
		return os.ErrClosed
	}
	return k.maps.gate.Put(uint32(0), open)
}

// put leads to a socket of ours by a slot, unless it does so already. The
// kernel keeps no reference that would keep the socket alive.
func (k *kernel) put(slot, fd int, cookie uint64) (fresh bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return false, os.ErrClosed
	}
	if k.cookieLocked(slot) == cookie {
		return false, nil
	}
	return true, k.maps.sockets.Put(uint32(slot), uint64(fd))
}

// cookieLocked names the socket in a slot, 0 if there is none.
func (k *kernel) cookieLocked(slot int) (cookie uint64) {
	if k.closed || k.maps.sockets.Lookup(uint32(slot), &cookie) != nil {
		return 0
	}
	return cookie
}

// clear empties the slots from a number on.
func (k *kernel) clear(from int) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for slot := from; slot < slots && !k.closed; slot++ {
		_ = k.maps.sockets.Delete(uint32(slot)) // most often there is nothing
	}
}

// filled tells how many slots lead to a socket.
func (k *kernel) filled() (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for slot := range slots {
		if k.cookieLocked(slot) != 0 {
			n++
		}
	}
	return n
}

// begun tells how many connections were led to the child since attach.
func (k *kernel) begun() (n uint64) {
	if k == nil {
		return 0
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var each []uint64
	if k.closed || k.maps.begun.Lookup(uint32(0), &each) != nil {
		return 0
	}
	for _, one := range each {
		n += one
	}
	return n
}

// Commands of membarrier(2).
const (
	membarrierQuery  = 0
	membarrierGlobal = 1
)

// settled waits until every packet that has met the gate as it was before has
// become what a census sees, or nothing: a first packet is dealt with in one
// RCU read-side section, from the look-up until the connection is in the
// kernel's table, and membarrier(2) waits for all of those. (On a machine of
// one processor it does not, and need not: such a section is not preempted.)
func settled() error {
	if _, _, e := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0); e != 0 {
		return fmt.Errorf("membarrier: %w", e)
	}
	return nil
}

// canSettle reports why settled would fail.
func canSettle() error {
	commands, _, e := unix.Syscall(unix.SYS_MEMBARRIER, membarrierQuery, 0, 0)
	if e != 0 {
		return fmt.Errorf("membarrier: %w", e)
	}
	if commands&membarrierGlobal == 0 {
		return fmt.Errorf("membarrier: the kernel offers no MEMBARRIER_CMD_GLOBAL, as with nohz_full: %w", errors.ErrUnsupported)
	}
	return nil
}
