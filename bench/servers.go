//go:build linux

package main

import (
	"fmt"
	"os"
)

// server is one that clients want to reach.
type server struct {
	name string
	// request is answered; answer tells where the answer's end is.
	request string
	command func(dir, port string) ([]string, error)
}

const (
	httpRequest = "GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
	lastRequest = "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
)

// redis answers PING, on one thread, with as little work as a server can have.
var redis = server{
	name:    "redis",
	request: "PING\r\n",
	command: func(dir, port string) ([]string, error) {
		return []string{
			"redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "", "--appendonly", "no",
			"--maxclients", fmt.Sprint(manyConnections), "--tcp-backlog", "4096", "--loglevel", "warning",
		}, nil
	},
}

// nginx answers a GET with a small page.
var nginx = server{
	name:    "nginx",
	request: httpRequest,
	command: func(dir, port string) ([]string, error) {
		const config = `daemon off;
worker_processes auto;
pid %[1]s/http.pid;
error_log stderr crit;
events { worker_connections 8192; }
http {
	access_log off;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen 127.0.0.1:%[2]s backlog=4096;
		location / { return 200 "a page that is as small as the answers of a service often are\n"; }
	}
}
`
		path, err := writeConfig(dir, "http.conf", fmt.Sprintf(config, dir, port))
		return []string{"nginx", "-e", "stderr", "-p", dir, "-c", path}, err
	},
}

// flood sends without end once it was asked to.
var flood = server{
	name:    "bulk sender",
	request: "go\n",
	command: func(_, port string) ([]string, error) { return roleLine("flood", "127.0.0.1:"+port) },
}

// roleLine is this program in one of its other roles.
func roleLine(words ...string) ([]string, error) {
	self, err := os.Executable()
	return append([]string{self, "role"}, words...), err
}
