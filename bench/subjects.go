//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// subject is one of those that are compared. All that differs between them is
// their command line.
type subject struct {
	name    string
	version string // "" when it is not installed
	starts  bool   // it starts the server; for the others one is there already
	// command is what to run between bind and dest, with configuration files
	// written to dir; nil for no proxy at all.
	command func(r route) ([]string, error)
}

// route says what a subject shall do.
type route struct {
	dir        string   // for its own files
	bind, dest string   // host:port
	server     []string // the server's command line, for a subject that starts it
	bulk       bool     // little but bulk is going to be carried
}

const (
	noProxy    = "no proxy"
	theHAProxy = "HAProxy"
	ours       = "tiproxy" // and the path behind it
)

// manyConnections is more than any measurement opens.
const manyConnections = 6000

// subjects returns all that can be measured here, and says of each that cannot
// why not.
func (o options) subjects() (can []subject, leftOut []string) {
	all := []subject{{name: noProxy, version: "-"}}
	all = append(all, o.tiproxies()...)
	for _, s := range append(all, haproxy(), nginxStream(), socketProxyd(), socat()) {
		own := s.name == noProxy || s.starts
		switch {
		case !own && !has(o.peers, strings.Fields(s.name)[0]):
			leftOut = append(leftOut, s.name+": not asked for")
		case s.version == "":
			leftOut = append(leftOut, s.name+": not installed")
		default:
			can = append(can, s)
		}
	}
	return can, leftOut
}

// tiproxies returns one subject for each path that this build has. A build
// without the choice has one path.
func (o options) tiproxies() []subject {
	version := firstMatch(`tiproxy ([^\s,]+)`, o.tiproxy, "--version")
	help, _ := exec.Command(o.tiproxy, "--help").Output()
	chooses := strings.Contains(string(help), "--path")
	var all []subject
	for path := range strings.SplitSeq(o.paths, ",") {
		var flags []string
		switch {
		case chooses:
			flags = []string{"--path", path}
		case path != "copy":
			continue
		}
		all = append(all, subject{name: ours + " " + path, version: version, starts: true, command: o.tiproxyLine(flags...)})
	}
	return all
}

// tiproxyLine is tiproxy with flags more than the necessary ones.
func (o options) tiproxyLine(flags ...string) func(route) ([]string, error) {
	return func(r route) ([]string, error) {
		line := append([]string{o.tiproxy, "--bind", r.bind, "--dest", r.dest, "--log-format", "json"}, flags...)
		return append(append(line, "--exec", r.server[0], "--"), r.server[1:]...), nil
	}
}

// haproxy is HAProxy as a TCP proxy: configuration.txt has each line. It starts
// a thread for each processor unasked, as its documentation recommends. Its own
// guess when splice pays ("splice-auto") is seldom yes here, so for bulk it is
// told; for small messages the guess is better.
func haproxy() subject {
	const config = `global
	maxconn %d
defaults
	mode tcp
	option %s
	timeout connect 5s
	timeout client 10m
	timeout server 10m
listen service
	bind %s
	server one %s
`
	return subject{
		name:    theHAProxy,
		version: firstMatch(`HAProxy version ([^\s-]+)`, "haproxy", "-v"),
		command: func(r route) ([]string, error) {
			splice := "splice-auto"
			if r.bulk {
				splice = "splice-response"
			}
			path, err := writeConfig(r.dir, "haproxy.cfg", fmt.Sprintf(config, manyConnections, splice, r.bind, r.dest))
			return []string{"haproxy", "-db", "-f", path}, err
		},
	}
}

const nginxModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

// nginxStream is nginx as a TCP proxy, with a worker and a listener ("reuseport")
// for each processor.
func nginxStream() subject {
	const config = `load_module %s;
daemon off;
worker_processes auto;
pid %s/nginx.pid;
error_log stderr crit;
events { worker_connections %d; }
stream {
	server {
		listen %s reuseport backlog=4096;
		proxy_pass %s;
	}
}
`
	s := subject{name: "nginx stream", command: func(r route) ([]string, error) {
		// A carried connection counts twice, and each worker counts for itself.
		path, err := writeConfig(r.dir, "stream.conf", fmt.Sprintf(config, nginxModule, r.dir, 2*manyConnections, r.bind, r.dest))
		return []string{"nginx", "-e", "stderr", "-p", r.dir, "-c", path}, err
	}}
	if _, err := os.Stat(nginxModule); err == nil {
		s.version = firstMatch(`nginx/(\S+)`, "nginx", "-v")
	}
	return s
}

const proxyd = "/lib/systemd/systemd-socket-proxyd"

// socketProxyd is systemd's proxy for servers that cannot take a listening socket.
func socketProxyd() subject {
	s := subject{name: "systemd-socket-proxyd", command: func(r route) ([]string, error) {
		return []string{"systemd-socket-activate", "-l", r.bind, proxyd, fmt.Sprintf("--connections-max=%d", manyConnections), r.dest}, nil
	}}
	if _, err := os.Stat(proxyd); err == nil {
		s.version = firstMatch(`systemd (\S+)`, "systemd-socket-activate", "--version")
	}
	return s
}

// socat has a process for each connection, and a larger buffer than its 8 KiB.
func socat() subject {
	return subject{
		name:    "socat",
		version: firstMatch(`socat version (\S+)`, "socat", "-V"),
		command: func(r route) ([]string, error) {
			host, port, err := net.SplitHostPort(r.bind)
			return []string{
				"socat", "-b", "131072",
				"TCP4-LISTEN:" + port + ",bind=" + host + ",fork,reuseaddr,backlog=4096,nodelay", "TCP4:" + r.dest + ",nodelay",
			}, err
		},
	}
}

func writeConfig(dir, name, text string) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// firstMatch runs a program that only says something, and finds the first group
// of pattern in that; "" when there is no such program.
func firstMatch(pattern string, line ...string) string {
	out, _ := exec.Command(line[0], line[1:]...).CombinedOutput() // some say it and fail
	if found := regexp.MustCompile(pattern).FindSubmatch(out); found != nil {
		return string(found[1])
	}
	return ""
}
