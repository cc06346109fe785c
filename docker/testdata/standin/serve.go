package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	sqle "github.com/dolthub/go-mysql-server"
	"github.com/dolthub/go-mysql-server/memory"
	"github.com/dolthub/go-mysql-server/server"
	"github.com/dolthub/go-mysql-server/sql"
	"github.com/dolthub/vitess/go/mysql"
	"github.com/sirupsen/logrus"
)

// drainTime is how long TiDB lets sessions finish after SIGTERM. It is fixed
// there too.
const drainTime = 15 * time.Second

// storageTime is how long it looks for its storage before it gives up.
const storageTime = 20 * time.Second

// serve is the life of the SQL server.
func serve(f flags) error {
	logrus.SetLevel(logrus.ErrorLevel)
	kept, err := openStore(f)
	if err != nil {
		return err
	}
	provider := memory.NewDBProvider(memory.NewDatabase("test"))
	engine := sqle.NewDefault(provider)
	sessions := memory.NewSessionBuilder(provider)
	if err := kept.load(engine, provider); err != nil {
		return err
	}
	if err := serveStatus(f); err != nil {
		return err
	}

	l, err := net.Listen("tcp", net.JoinHostPort(f.Host, f.Port))
	if err != nil {
		return err
	}
	tracked := &listener{Listener: l, open: map[*conn]bool{}}
	s, err := server.NewServerWithHandler(server.Config{
		Protocol: "tcp", Address: l.Addr().String(), Listener: tracked, Version: "8.0.11-TiDB-stand-in",
	}, engine, sql.NewContext, sessions, nil, watchTransactions)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	go s.Start()
	fmt.Fprintf(os.Stderr, "stand-in for TiDB (it is not TiDB): ready on %v, store %s, path %q\n", l.Addr(), f.Store, f.Path)

	fmt.Fprintf(os.Stderr, "stand-in: got %v\n", <-stop)
	began := time.Now()
	tracked.drain(drainTime)
	fmt.Fprintf(os.Stderr, "stand-in: sessions ended after %v\n", time.Since(began).Round(time.Millisecond))
	return kept.save(engine, provider)
}

// serveStatus answers GET /status, on a port that fails the start if it is
// taken.
func serveStatus(f flags) error {
	if !f.Status.Report {
		return nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(f.Status.Host, strconv.Itoa(f.Status.Port)))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `{"version":"stand-in"}`)
	})
	go http.Serve(l, mux)
	return nil
}

// watchTransactions tells each connection, after each query, whether its
// session has a transaction open.
func watchTransactions(h mysql.Handler) (mysql.Handler, error) {
	return &handler{h}, nil
}

// waitForStorage returns when one of the PD servers takes connections.
func waitForStorage(path string) error {
	var last error
	for end := time.Now().Add(storageTime); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, pd := range strings.Split(path, ",") {
			c, err := net.DialTimeout("tcp", pd, time.Second)
			if err == nil {
				return c.Close()
			}
			last = err
		}
	}
	return fmt.Errorf("no PD answers: %w", last)
}
