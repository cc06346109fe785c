// Package process runs one child process at a time for a service, with
// everything that it starts: its tree.
//
// What is always true here: at most one Host lives in a program, and every
// process of the program is started by that Host's one thread, which is also
// the only one that reaps. A process is reaped by its own pid, never by
// "any child", so no exit status goes to the wrong place. The process a Life
// was started with stays unreaped until its whole tree is gone: its pid, and
// the process group of the same number, cannot be given to anybody else while
// they may still be signalled. Every other member of the tree is signalled
// through a pidfd whose start time was checked, so a recycled pid is never hit.
// The tree's members are recognised by descent, process group, session and by
// the mark in their environment; see tree.
//
// What tells whether a child is ready without being asked of it from outside is
// here, too: its output, its notifications (sd_notify(3)), and commands that are
// run beside it. Such a command is a small life of its own with a mark of its
// own; it is never taken for a part of the child, and gone before the child is
// said to be gone.
//
// While a child lives, a keeper lives too: a second process of this program
// that kills what is left of the tree when this program dies unasked.
//
// Signal dispositions: the child gets those this program was started with for
// SIGHUP and SIGINT, unless the program asks for them with signal.Notify, and
// the default for every other signal. The Go runtime replaces all other
// dispositions before any code of ours runs and gives no way to ask for the
// former ones, so an ignored SIGPIPE or SIGQUIT is not handed on.
//
// Outside Linux the promises are weaker: the process group is signalled and
// waited for; there is no keeper, and who leaves the group is not followed.
package process
