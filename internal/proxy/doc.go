// Package proxy carries bytes between clients and the child of a pool.
//
// Always true here: every accepted connection is counted once, from its accept
// until both of its sockets are closed, and ends for exactly one reason; it
// holds at most one lease, which is given back exactly once, as soon as the
// child's side of the connection is over. Bytes arrive in the order in which
// they were sent, none is taken from a client before there is a child that
// takes it, and none that has arrived from one side is thrown away while the
// other side still takes it. The end of one direction never ends the other. A
// reset stays a reset: it is passed on behind the bytes that came before it.
//
// A client that cannot be served at once is held: it keeps its socket, its
// bytes stay in the kernel, and it is forgotten when it resets its connection,
// but never because it half-closed it.
//
// On Linux the bytes are moved by two goroutines per connection that wait for
// readability without holding anything, copy small messages through a shared
// buffer and bulk through a shared pipe with splice(2). An idle connection is
// two file descriptors. Elsewhere the copy is a plain one: a reset that was
// reported to the other direction, or that follows a half-close, can look like
// a clean end there, a held client is not watched, and a reset before the first
// byte is passed on instead of being tried again.
//
// Urgent data (MSG_OOB) stays in the stream and loses its mark. A panic is not
// recovered: a program that lost count of its leases must not go on.
package proxy
