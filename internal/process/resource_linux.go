package process

import (
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"tiproxy/internal/pool"
)

// start is Start without the patience for shortages.
func (r *Resource) start(ctx context.Context, gen uint64) (*life, error) {
	if err := r.prober.Before(ctx); err != nil {
		if isShortage(err) {
			err = startError(&r.cmd, err)
		}
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	l, err := r.spawn(fmt.Sprintf("%s.%d%s", r.cmd.Service, gen, r.host.name))
	if err != nil {
		return nil, err
	}
	go l.guard()
	return l, nil
}

// spawn starts the program, as a life without a keeper.
func (r *Resource) spawn(mark string) (*life, error) {
	var pipes pipes
	defer pipes.closeChildSide()
	if err := pipes.open(); err != nil {
		return nil, startError(&r.cmd, err)
	}
	notify, err := r.notifier()
	if err != nil {
		pipes.closeOurSide()
		return nil, startError(&r.cmd, err)
	}
	path, args := r.cmd.start()
	pid, _, err := r.host.spawn(path, args, r.attr(&pipes, mark, notify), false)
	if err != nil {
		pipes.closeOurSide()
		notify.drop()
		return nil, startError(&r.cmd, err)
	}
	l, err := r.live(pid, mark, &pipes, notify)
	if err != nil {
		_ = unix.Kill(-pid, unix.SIGKILL)
		r.host.bury(pid)
		pipes.closeOurSide()
		notify.drop()
		return nil, startError(&r.cmd, err)
	}
	return l, nil
}

// notifier is whom the child notifies, nil if nobody waits for that.
func (r *Resource) notifier() (*notifier, error) {
	if !r.cmd.Gates.Notify {
		return nil, nil
	}
	return newNotifier(r.log.With("service", r.cmd.Service))
}

// sysAttr is what every process that runs on behalf of c is started with: its
// own process group, and c's user. Pdeathsig is a second belt beside the keeper.
// It is safe because the spawning thread lives as long as the program, and it
// lasts because the user is changed before it is set (PR_SET_PDEATHSIG(2const)).
func (c *Command) sysAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL, Credential: c.User.sys()}
}

func (r *Resource) attr(p *pipes, mark string, notify *notifier) *syscall.ProcAttr {
	env := slices.Clone(r.cmd.Env)
	files := p.childSide()
	if r.cmd.Activated {
		files = append(files, r.cmd.Listener) // becomes 3, SD_LISTEN_FDS_START
		env = r.cmd.listenEnv(env)
	}
	if r.check {
		files[2] = files[1] // so that what came last can be told
	}
	return &syscall.ProcAttr{
		Dir:   r.cmd.Dir,
		Env:   append(notify.addTo(env), MarkVariable+"="+mark),
		Files: files,
		Sys:   r.cmd.sysAttr(),
	}
}

// live makes a life of a child that was started. The error is a shortage.
func (r *Resource) live(pid int, mark string, p *pipes, notify *notifier) (*life, error) {
	blind := spare.misses.Load()
	head, ok := readProc(pid) // it is unreaped, so it is there
	if !ok && blind != spare.misses.Load() {
		return nil, errUnseen
	}
	if !ok {
		head = proc{ident: ident{pid: pid}}
	}
	l := &life{
		res:    r,
		tree:   newTree(r.host, head.ident, mark),
		tail:   &tail{},
		notify: notify,
		exited: make(chan pool.Exit, 1),
		dead:   make(chan struct{}),
		told:   make(chan struct{}),
		gone:   make(chan struct{}),
		force:  make(chan struct{}),
		ending: make(chan struct{}),
		opened: make(chan struct{}, 1),
		alone:  make(chan struct{}),

		checked: make(chan struct{}),
	}
	l.tree.modest = r.check
	close(l.checked) // nothing of a check is left
	l.alive, l.end = context.WithCancelCause(context.Background())
	l.asking, l.stopAsking = context.WithCancelCause(l.alive)
	l.out = [2]*copier{
		newCopier(p.out, r.cmd.Stdout, l.tail, 0),
		newCopier(p.err, r.cmd.Stderr, l.tail, 1),
	}
	lines := lineGates(&r.cmd.Gates)
	tapLines(lines, l.out)
	l.gates = l.gatesOf(&r.cmd.Gates, lines, notify.gates()...)
	l.run()
	return l, nil
}

// run starts what follows a child, guard excepted.
func (l *life) run() {
	go l.out[0].run()
	go l.out[1].run()
	go l.monitor()
	if l.notify != nil {
		go l.notify.run(l.tree)
	}
}

// pipes are the child's three standard descriptors.
type pipes struct {
	null     int
	outw     int
	errw     int
	out, err *os.File // our side
}

func (p *pipes) open() (err error) {
	p.null, p.outw, p.errw = -1, -1, -1
	if p.null, err = unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	if p.out, p.outw, err = outputPipe(); err != nil {
		return err
	}
	if p.err, p.errw, err = outputPipe(); err != nil {
		p.closeOurSide()
	}
	return err
}

// outputPipe makes a pipe whose read end never blocks a thread. The write end
// blocks, as programs expect it of their stdout.
func outputPipe() (*os.File, int, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, os.NewSyscallError("pipe2", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, -1, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "|child"), fds[1], nil
}

func (p *pipes) childSide() []uintptr {
	return []uintptr{uintptr(p.null), uintptr(p.outw), uintptr(p.errw)}
}

func (p *pipes) closeChildSide() {
	for _, fd := range []int{p.null, p.outw, p.errw} {
		if fd > 0 {
			unix.Close(fd)
		}
	}
}

func (p *pipes) closeOurSide() {
	for _, f := range []*os.File{p.out, p.err} {
		if f != nil {
			f.Close()
		}
	}
}
