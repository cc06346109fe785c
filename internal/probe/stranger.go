package probe

import (
	"fmt"
	"net"
)

// StrangerError says that a process outside the child's tree listens on the
// destination.
type StrangerError struct {
	Addr net.Addr // where it listens for connections to the destination
	PID  int      // 0 if we may not look into the process
	Name string   // its command name, see proc_pid_comm(5); "" if PID is 0
	UID  int      // the user the socket was created by
}

// Error says who holds the address, and what would be right.
func (e *StrangerError) Error() string {
	who := fmt.Sprintf("a process of uid %d", e.UID)
	if e.PID != 0 {
		who = fmt.Sprintf("process %d (%s, uid %d)", e.PID, e.Name, e.UID)
	}
	other, addr := "another port for --dest", e.Addr.String()
	if e.Addr.Network() == "unix" {
		other, addr = "another path for --dest", "unix:"+addr
	}
	return fmt.Sprintf("%s is taken by %s, which is not the child: stop it, or choose %s; "+
		`if it listens for the child on purpose, as with "docker run -p", use --ready dial`, addr, who, other)
}
