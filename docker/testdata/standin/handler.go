package main

import (
	"context"

	"github.com/dolthub/vitess/go/mysql"
	"github.com/dolthub/vitess/go/sqltypes"
)

// handler is the engine's own, seen through the interface that has no other
// ways to run a statement than the three below, so that none goes unseen.
type handler struct{ mysql.Handler }

// ComQuery runs one statement.
func (h *handler) ComQuery(ctx context.Context, c *mysql.Conn, query string, callback mysql.ResultSpoolFn) error {
	defer noteTransaction(c)
	return h.Handler.ComQuery(ctx, c, query, callback)
}

// ComMultiQuery runs the first of several statements.
func (h *handler) ComMultiQuery(ctx context.Context, c *mysql.Conn, query string, callback mysql.ResultSpoolFn) (string, error) {
	defer noteTransaction(c)
	return h.Handler.ComMultiQuery(ctx, c, query, callback)
}

// ComStmtExecute runs a prepared statement.
func (h *handler) ComStmtExecute(ctx context.Context, c *mysql.Conn, prepare *mysql.PrepareData, callback func(*sqltypes.Result) error) error {
	defer noteTransaction(c)
	return h.Handler.ComStmtExecute(ctx, c, prepare, callback)
}

// noteTransaction runs on the connection's own goroutine, before it reads the
// next command.
func noteTransaction(c *mysql.Conn) {
	if own, ok := c.Conn.(*conn); ok {
		own.setBusy(c.StatusFlags&mysql.ServerInTransaction != 0)
	}
}
