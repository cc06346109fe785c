//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// route says what a peer shall do.
type route struct {
	bind, dest string        // host:port; the host "::" of bind means both IP versions
	dir        string        // for the peer's own files
	server     []string      // the server's command line, for a peer that starts it
	idle       time.Duration // stop the server when idle for so long, for the same
	tellSource bool          // tell the server who the client is
	limit      int           // most connections at once; 0: the peer's default
	perSource  int           // most connections of one address; 0: no such limit
	renewable  bool          // its configuration is going to change
	renewed    int           // how often it has changed so far
}

func (r route) bindPort() string { return portOf(r.bind) }

func (r route) dual() bool { return strings.HasPrefix(r.bind, "[::]") }

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// traits are what the harness has to know about a peer to treat it as its
// documentation says.
type traits struct {
	starts   bool           // it starts the server; for the others one is there already
	graceful syscall.Signal // ends it when its connections have ended
	reload   syscall.Signal // makes it read its configuration anew; 0: it cannot
	takeover bool           // a second one can take its place (see command's successor)
	forks    bool           // each connection has a process of its own
}

// peer is one of the programs that are compared. All that differs between them
// is their command line and how they are told to end.
type peer interface {
	name() string
	// version is "" when it is not installed.
	version() string
	// command is what to run, with configuration files written where they are needed.
	command(r route) ([]string, error)
	traits() traits
}

// errNoSuchOption says that a peer cannot be asked for what the row needs.
var errNoSuchOption = errors.New("no such option")

// allPeers are the columns, from left to right.
func allPeers(tiproxy string) []peer {
	return []peer{tiproxyPeer{tiproxy}, systemdPeer{}, haproxyPeer{}, nginxPeer{}, ncatPeer{}, socatPeer{}}
}

// manyConnections is more than any row opens.
const manyConnections = 2000

// tiproxyPeer is the program in question.
type tiproxyPeer struct{ path string }

func (tiproxyPeer) name() string { return "tiproxy" }
func (tiproxyPeer) traits() traits {
	return traits{starts: true, graceful: syscall.SIGTERM, reload: syscall.SIGHUP}
}

func (p tiproxyPeer) version() string { return firstMatch(`tiproxy ([^\s,]+)`, p.path, "--version") }

// knows says whether this build has a flag: those that are not there in every
// build are used where they are.
func (p tiproxyPeer) knows(flag string) bool {
	help, err := output(p.path, "--help")
	return err == nil && strings.Contains(help, flag+" ")
}

func (p tiproxyPeer) command(r route) ([]string, error) {
	bind := r.bind
	if r.dual() {
		bind = ":" + r.bindPort()
	}
	if r.renewable {
		path, err := p.configure(r)
		return []string{p.path, "run", "--config", path}, err
	}
	line := []string{p.path, "--bind", bind, "--dest", r.dest, "--log-format", "text"}
	if r.idle > 0 {
		line = append(line, "--idle", r.idle.String())
	}
	if r.limit > 0 {
		line = append(line, "--max-connections", strconv.Itoa(r.limit))
	}
	if r.perSource > 0 {
		if !p.knows("--max-per-source") {
			return nil, errNoSuchOption
		}
		line = append(line, "--max-per-source", strconv.Itoa(r.perSource))
	}
	if r.tellSource {
		if !p.knows("--proxy-protocol") {
			return nil, errNoSuchOption
		}
		line = append(line, "--proxy-protocol", "v1")
	}
	line = append(line, "--exec", r.server[0])
	if len(r.server) > 1 {
		line = append(append(line, "--"), r.server[1:]...)
	}
	return line, nil
}

// configure writes a file that is another one each time.
func (tiproxyPeer) configure(r route) (path string, err error) {
	service, err := json.Marshal(map[string]any{
		"bind": r.bind, "dest": r.dest, "exec": r.server[0], "args": r.server[1:],
		"idle": fmt.Sprintf("%dm", 1+r.renewed), "env": map[string]string{"RENEWED": strconv.Itoa(r.renewed)},
	})
	if err != nil {
		return "", err
	}
	return writeConfig(r, "tiproxy.yaml", fmt.Sprintf("admin: off\nlog-format: text\nservices: {one: %s}\n", service))
}

// systemdPeer is systemd's pair for servers that cannot take a listening
// socket: as much of it as runs without systemd as the first process.
type systemdPeer struct{}

const proxyd = "/lib/systemd/systemd-socket-proxyd"

func (systemdPeer) name() string { return "systemd-socket-activate + -proxyd" }

// proxyd exits at once on SIGTERM, and that is how a unit of it is stopped.
func (systemdPeer) traits() traits { return traits{graceful: syscall.SIGTERM} }

func (systemdPeer) version() string {
	if _, err := os.Stat(proxyd); err != nil {
		return ""
	}
	return firstMatch(`systemd (\S+)`, "systemd-socket-activate", "--version")
}

func (systemdPeer) command(r route) ([]string, error) {
	if r.tellSource || r.perSource > 0 {
		return nil, errNoSuchOption
	}
	bind := r.bind
	if r.dual() {
		bind = r.bindPort()
	}
	limit := r.limit
	if limit == 0 {
		limit = manyConnections
	}
	// proxyd takes everything before the last colon for the host's name.
	dest := strings.NewReplacer("[", "", "]", "").Replace(r.dest)
	return []string{"systemd-socket-activate", "-l", bind, proxyd, "--connections-max=" + strconv.Itoa(limit), dest}, nil
}

// haproxyPeer is HAProxy in TCP mode, see configuration.txt for each line.
type haproxyPeer struct{}

func (haproxyPeer) name() string    { return "HAProxy" }
func (haproxyPeer) version() string { return firstMatch(`HAProxy version (\S+)`, "haproxy", "-v") }
func (haproxyPeer) traits() traits  { return traits{graceful: syscall.SIGUSR1, takeover: true} }

// haproxySocket is where a successor fetches the listeners (management.txt, "-x").
func haproxySocket(r route) string { return filepath.Join(r.dir, "admin.sock") }

func (haproxyPeer) command(r route) ([]string, error) {
	var c strings.Builder
	fmt.Fprintf(&c, "global\n\tlog stderr format raw local0 notice\n\tstats socket %s mode 600 level admin expose-fd listeners\n", haproxySocket(r))
	if r.limit > 0 {
		fmt.Fprintf(&c, "\tmaxconn %d\n", r.limit)
	}
	c.WriteString("defaults\n\tmode tcp\n\tlog global\n\toption splice-auto\n\toption clitcpka\n\toption srvtcpka\n\toption redispatch\n\tretries 3\n" +
		"\ttimeout connect 5s\n\ttimeout client 1m\n\ttimeout server 1m\n\ttimeout tunnel 1h\n\ttimeout client-fin 30s\n")
	bind := r.bind
	if r.dual() {
		bind = ":::" + r.bindPort() + " v4v6"
	}
	fmt.Fprintf(&c, "listen service\n\tbind %s\n", bind)
	if r.perSource > 0 {
		fmt.Fprintf(&c, "\tstick-table type ip size 10k expire 30s store conn_cur\n\ttcp-request connection track-sc0 src\n"+
			"\ttcp-request connection reject if { sc0_conn_cur gt %d }\n", r.perSource)
	}
	fmt.Fprintf(&c, "\tserver one %s%s\n", r.dest, onlyIf(r.tellSource, " send-proxy"))
	path, err := writeConfig(r, "haproxy.cfg", c.String())
	return []string{"haproxy", "-db", "-f", path}, err
}

// nginxPeer is nginx with its stream module.
type nginxPeer struct{}

func (nginxPeer) name() string { return "nginx stream" }
func (nginxPeer) traits() traits {
	return traits{graceful: syscall.SIGQUIT, reload: syscall.SIGHUP}
}

const nginxStream = "/usr/lib/nginx/modules/ngx_stream_module.so"

func (nginxPeer) version() string {
	if _, err := os.Stat(nginxStream); err != nil {
		return ""
	}
	return firstMatch(`nginx/(\S+)`, "nginx", "-v")
}

func (nginxPeer) command(r route) ([]string, error) {
	var c strings.Builder
	fmt.Fprintf(&c, "load_module %s;\ndaemon off;\nworker_processes auto;\npid %s/nginx.pid;\nerror_log stderr;\n", nginxStream, r.dir)
	limit := r.limit
	if limit == 0 {
		limit = manyConnections
	}
	// A proxied connection counts twice, and each worker counts for itself.
	fmt.Fprintf(&c, "events { worker_connections %d; }\nstream {\n", 2*limit+16)
	bind := r.bind + " so_keepalive=on"
	if r.dual() {
		bind += " ipv6only=off"
	}
	if r.perSource > 0 {
		c.WriteString("\tlimit_conn_zone $binary_remote_addr zone=source:1m;\n")
	}
	fmt.Fprintf(&c, "\tserver {\n\t\tlisten %s;\n\t\tproxy_pass %s;\n\t\tproxy_half_close on;\n\t\tproxy_socket_keepalive on;\n", bind, r.dest)
	if r.perSource > 0 {
		fmt.Fprintf(&c, "\t\tlimit_conn source %d;\n", r.perSource)
	}
	c.WriteString(onlyIf(r.tellSource, "\t\tproxy_protocol on;\n") + "\t}\n}\n")
	path, err := writeConfig(r, "nginx.conf", c.String())
	return []string{"nginx", "-e", "stderr", "-p", r.dir, "-c", path}, err
}

// ncatPeer is Nmap's netcat, forwarding through a second one.
type ncatPeer struct{}

func (ncatPeer) name() string    { return "ncat" }
func (ncatPeer) version() string { return firstMatch(`Version (\S+)`, "ncat", "--version") }
func (ncatPeer) traits() traits  { return traits{graceful: syscall.SIGTERM, forks: true} }

func (ncatPeer) command(r route) ([]string, error) {
	if r.tellSource || r.perSource > 0 {
		return nil, errNoSuchOption
	}
	limit := r.limit
	if limit == 0 {
		limit = manyConnections
	}
	host, port, err := net.SplitHostPort(r.dest)
	if err != nil {
		return nil, err
	}
	line := []string{"ncat", "-l", "-k", "-m", strconv.Itoa(limit), "--sh-exec", "exec ncat " + host + " " + port}
	if r.dual() {
		return append(line, r.bindPort()), nil
	}
	bind, port, err := net.SplitHostPort(r.bind)
	return append(line, bind, port), err
}

// socatPeer is socat, one process for each connection.
type socatPeer struct{}

func (socatPeer) name() string    { return "socat" }
func (socatPeer) version() string { return firstMatch(`socat version (\S+)`, "socat", "-V") }
func (socatPeer) traits() traits  { return traits{graceful: syscall.SIGTERM, forks: true} }

func (socatPeer) command(r route) ([]string, error) {
	if r.tellSource || r.perSource > 0 {
		return nil, errNoSuchOption
	}
	host, port, err := net.SplitHostPort(r.bind)
	if err != nil {
		return nil, err
	}
	listen := "TCP4-LISTEN:" + port + ",bind=" + host
	if r.dual() {
		listen = "TCP6-LISTEN:" + port + ",ipv6only=0"
	}
	listen += ",fork,reuseaddr"
	if r.limit > 0 {
		listen += ",max-children=" + strconv.Itoa(r.limit)
	}
	return []string{"socat", listen, "TCP:" + r.dest}, nil
}

func writeConfig(r route, name, text string) (string, error) {
	path := filepath.Join(r.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

func onlyIf(yes bool, text string) string {
	if yes {
		return text
	}
	return ""
}

// firstMatch runs a program and finds the first group of pattern in what it
// prints; "" when there is no such program.
func firstMatch(pattern string, line ...string) string {
	if _, err := exec.LookPath(line[0]); err != nil {
		return ""
	}
	out, _ := output(line...) // some say it and fail
	if found := regexp.MustCompile(pattern).FindStringSubmatch(out); found != nil {
		return found[1]
	}
	return ""
}

// chosen are the peers with these names, or all. An unknown name is an error.
func chosen(all []peer, names string) ([]peer, error) {
	if names == "" {
		return all, nil
	}
	var some []peer
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(p peer) bool { return strings.EqualFold(strings.Fields(p.name())[0], name) })
		if i < 0 {
			return nil, fmt.Errorf("no peer is called %q", name)
		}
		some = append(some, all[i])
	}
	return some, nil
}
