package config

import "fmt"

// BytePath is how bytes get from the clients to the child.
type BytePath string

// The paths.
const (
	PathCopy    BytePath = "copy"    // tiproxy carries them
	PathDirect  BytePath = "direct"  // the kernel leads the clients to the child
	PathAuto    BytePath = "auto"    // direct where that can be, copy elsewhere
	PathInherit BytePath = "inherit" // the child is handed the socket on which they arrive
)

// bytePath reads --path and says what in the other settings does not go with
// the direct path, "" if nothing does.
func (c *checker) bytePath(t Text, s Service) (path BytePath, obstacle string) {
	path = parseBytePath(c, t)
	obstacle = notDirect(t, s)
	if path == PathInherit && obstacle == "" && t.WakeRate.Given {
		obstacle = "--wake-rate goes by the client's address"
	}
	switch {
	case obstacle == "":
	case path == PathDirect:
		c.report(t.BytePath, fmt.Errorf("is direct, but %s: leave that out, or write --path auto or copy", obstacle))
	case path == PathInherit:
		c.report(t.BytePath, fmt.Errorf("is inherit, but %s: leave that out, or write --path copy", obstacle))
	}
	return path, obstacle
}

// parseBytePath reads --path alone. What is wrong with it is told to c, if any.
func parseBytePath(c *checker, t Text) BytePath {
	return parsed(c, t.BytePath, DefaultPath, oneOf(PathCopy, PathDirect, PathAuto, PathInherit))
}

// notDirect says what keeps clients from being led to the child itself: all
// that somebody in between has to see, to say or to count.
func notDirect(t Text, s Service) string {
	given := func(list []Value) bool { return len(list) > 0 }
	for _, o := range []struct {
		holds bool
		why   string
	}{
		{s.Bind.Network == "unix", "--bind is a unix socket"},
		{s.Dest.Network == "unix", "--dest is a unix socket"},
		{!s.Ready.Listen || s.Ready.Dial, "--ready does without the child's own listening socket, or with a dial"},
		{t.ProxyProtocol.Given, "--proxy-protocol writes to every connection"},
		{given(t.AcceptProxyProtocol), "--accept-proxy-protocol reads from every connection"},
		{s.WakeOn == WakeOnData, "--wake-on data reads from every connection"},
		{s.QuietPolicy == QuietClose || s.QuietPolicy == QuietIgnore, "--quiet-policy " + string(s.QuietPolicy) + " has to see the bytes"},
		{given(t.Allow), "--allow looks at every client"},
		{given(t.Deny), "--deny looks at every client"},
		{t.MaxConnections.Given, "--max-connections counts every connection"},
		{t.MaxWaiting.Given, "--max-waiting counts every connection"},
		{t.MaxPerSource.Given, "--max-per-source counts every connection"},
	} {
		if o.holds {
			return o.why
		}
	}
	return ""
}
