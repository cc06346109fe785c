// Command standin is a stand-in for TiDB's servers in tests of the Docker
// files, for machines that cannot pull an image. It is not TiDB: SQL is
// understood by github.com/dolthub/go-mysql-server, tables live in memory.
//
// What is true of the real tidb-server and kept here: the SQL port is opened
// when the server is ready and not before; until then a signal just kills it.
// SIGTERM closes the listener at once, ends idle sessions at once, gives those
// with an open transaction or a running query 15 s, and then exits with status
// 0. Two servers on one path: the second exits with status 1.
//
// What is not: its tables are written below -path on SIGTERM only (the real
// one keeps what was committed over SIGKILL too), and with -store=tikv they are
// not kept at all.
//
// The name it is started by decides what it plays: tidb-server, pd-server or
// tikv-server. The last two only listen, and keep nothing.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := play(filepath.Base(os.Args[0]), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "stand-in:", err)
		os.Exit(1)
	}
}

func play(role string, args []string) error {
	switch role {
	case "pd-server":
		return playStorage(args, "client-urls")
	case "tikv-server":
		return playStorage(args, "addr")
	default:
		f, err := parseFlags(args)
		if err != nil {
			return err
		}
		return serve(f)
	}
}
