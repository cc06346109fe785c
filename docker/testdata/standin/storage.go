package main

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// playStorage is a PD or TiKV that listens where the named flag says, takes
// connections and keeps nothing.
func playStorage(args []string, name string) error {
	address, err := storageAddress(args, name)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go acceptAll(l)
	fmt.Fprintf(os.Stderr, "stand-in for %s: listening on %s, keeps nothing\n", os.Args[0], address)
	<-stop
	return nil
}

// storageAddress finds --name=VALUE, a URL or host:port.
func storageAddress(args []string, name string) (string, error) {
	for _, arg := range args {
		value, ok := strings.CutPrefix(arg, "--"+name+"=")
		if !ok {
			continue
		}
		if u, err := url.Parse(value); err == nil && u.Host != "" {
			return u.Host, nil
		}
		return value, nil
	}
	return "", fmt.Errorf("no --%s= among %q", name, args)
}

func acceptAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}
