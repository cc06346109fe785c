package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	sqle "github.com/dolthub/go-mysql-server"
	"github.com/dolthub/go-mysql-server/memory"
	"github.com/dolthub/go-mysql-server/sql"
)

// store is where tables outlive the server: SQL statements below -path, one a
// line, quoted as in Go. Without a directory nothing is kept.
type store struct {
	dir  string   // "" = volatile
	lock *os.File // held while the server lives
}

func openStore(f flags) (*store, error) {
	if f.Store == "tikv" {
		return &store{}, waitForStorage(f.Path)
	}
	if f.Path == "" {
		return &store{}, nil
	}
	if err := os.MkdirAll(f.Path, 0o750); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(f.Path, "lock"), os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("another server uses %s: %w", f.Path, err)
	}
	return &store{dir: f.Path, lock: lock}, nil
}

func (s *store) file() string { return filepath.Join(s.dir, "statements") }

// load runs the statements that save wrote.
func (s *store) load(engine *sqle.Engine, provider *memory.DbProvider) error {
	if s.dir == "" {
		return nil
	}
	text, err := os.ReadFile(s.file())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx := newContext(provider)
	for line := range strings.Lines(string(text)) {
		statement, err := strconv.Unquote(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return fmt.Errorf("%s: %q: %w", s.file(), line, err)
		}
		if _, err := rows(ctx, engine, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// save replaces the statements by those that make today's tables.
func (s *store) save(engine *sqle.Engine, provider *memory.DbProvider) error {
	if s.dir == "" {
		return nil
	}
	statements, err := dump(newContext(provider), engine, provider)
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, statement := range statements {
		text.WriteString(strconv.Quote(statement) + "\n")
	}
	if err := os.WriteFile(s.file()+".new", []byte(text.String()), 0o640); err != nil {
		return err
	}
	return os.Rename(s.file()+".new", s.file())
}

func newContext(provider *memory.DbProvider) *sql.Context {
	return sql.NewContext(context.Background(), sql.WithSession(memory.NewSession(sql.NewBaseSession(), provider)))
}

// dump writes every table as statements.
func dump(ctx *sql.Context, engine *sqle.Engine, provider *memory.DbProvider) ([]string, error) {
	var out []string
	for _, db := range provider.AllDatabases(ctx) {
		name := quote(db.Name())
		out = append(out, "create database if not exists "+name)
		tables, err := db.GetTableNames(ctx)
		if err != nil {
			return nil, err
		}
		for _, table := range tables {
			lines, err := dumpTable(ctx, engine, db.Name(), table)
			if err != nil {
				return nil, fmt.Errorf("table %s.%s: %w", db.Name(), table, err)
			}
			out = append(append(out, "use "+name), lines...)
		}
	}
	return out, nil
}

func dumpTable(ctx *sql.Context, engine *sqle.Engine, db, table string) ([]string, error) {
	if _, err := rows(ctx, engine, "use "+quote(db)); err != nil {
		return nil, err
	}
	made, err := rows(ctx, engine, "show create table "+quote(table))
	if err != nil {
		return nil, err
	}
	out := []string{fmt.Sprint(made[0][1])}
	schema, iter, _, err := engine.Query(ctx, "select * from "+quote(table))
	if err != nil {
		return nil, err
	}
	content, err := sql.RowIterToRows(ctx, iter)
	if err != nil {
		return nil, err
	}
	for _, row := range content {
		values := make([]string, len(row))
		for i, v := range row {
			value, err := schema[i].Type.SQL(ctx, nil, v)
			if err != nil {
				return nil, err
			}
			var b strings.Builder
			value.EncodeSQL(&b)
			values[i] = b.String()
		}
		out = append(out, "insert into "+quote(table)+" values ("+strings.Join(values, ", ")+")")
	}
	return out, nil
}

// rows runs a statement to its end.
func rows(ctx *sql.Context, engine *sqle.Engine, statement string) ([]sql.Row, error) {
	_, iter, _, err := engine.Query(ctx, statement)
	if err != nil {
		return nil, err
	}
	got, err := sql.RowIterToRows(ctx, iter)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return got, err
}

func quote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }
