package clickhouse

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one numbered file. Numbers only grow, and a file that was released never changes.
//
// ClickHouse has no transactions over DDL: a process that was killed in the middle of a file begins it again. So every statement must be one that
// can be repeated (IF NOT EXISTS, OR REPLACE), or the migration has code that knows how. Processes that start at once are kept apart by a lock,
// which a restart of the server loses: nothing may depend on it but that work is done once.
type migration struct {
	version uint32
	name    string
	sql     []string
	// run does more than to run the statements in order; nil for most.
	run func(*Store, context.Context, migration) error
}

// code of migrations, by version.
var code = map[uint32]func(*Store, context.Context, migration) error{3: (*Store).relayout}

const ledgerTable = `CREATE TABLE IF NOT EXISTS schema_migrations
(
    version    UInt32,
    name       String,
    applied_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree ORDER BY version`

// Migrate creates the DSN's database when it is absent and brings its schema up to this program. Any number of processes may do so at once. The error is
// ErrSchemaNewer when the schema is ahead of this program, ErrTransient when the server is not there, and final otherwise.
func (s *Store) Migrate(ctx context.Context) error {
	return s.migrate(ctx, migrations())
}

func (s *Store) migrate(ctx context.Context, todo []migration) error {
	if err := createDatabase(ctx, s.opts); err != nil {
		return err
	}
	replicated, err := s.replicated(ctx)
	if err != nil {
		return err
	}
	if err := s.queries.Exec(ctx, engineFor(replicated, ledgerTable)); err != nil {
		return fmt.Errorf("create the table of migrations: %w", classify(err))
	}
	newest := todo[len(todo)-1].version
	if at, err := s.version(ctx, newest); err != nil || at == newest {
		return err
	}
	held, release, err := s.lock(ctx, "auditlog-migrate-"+s.opts.Auth.Database)
	if err != nil {
		return err
	}
	defer release()
	at, err := s.version(held, newest) // another process may have done it meanwhile
	if err != nil {
		return err
	}
	for _, m := range todo {
		if m.version <= at {
			continue
		}
		m.sql = enginesFor(replicated, m.sql)
		if err := s.apply(held, m); err != nil {
			if cause := context.Cause(held); cause != nil && ctx.Err() == nil {
				err = fmt.Errorf("%w: %w: %w", ErrTransient, cause, err)
			}
			return err
		}
	}
	return nil
}

// version is that of the schema. One that is newer than the newest that this program knows is an error.
func (s *Store) version(ctx context.Context, newest uint32) (at uint32, err error) {
	if err := s.queries.QueryRow(ctx, "SELECT max(version) FROM schema_migrations").Scan(&at); err != nil {
		return 0, fmt.Errorf("read the version of the schema: %w", classify(err))
	}
	if at > newest {
		return 0, fmt.Errorf("%w: database %s is at version %d, this program knows %d: run a newer program",
			ErrSchemaNewer, s.opts.Auth.Database, at, newest)
	}
	return at, nil
}

// apply runs one migration and records it.
func (s *Store) apply(ctx context.Context, m migration) error {
	run := m.run
	if run == nil {
		run = func(s *Store, ctx context.Context, m migration) error {
			return s.steps(ctx, "run its statements", m.sql...)
		}
	}
	if err := run(s, ctx, m); err != nil {
		return fmt.Errorf("migrate to %s: %w", m.name, err)
	}
	err := s.queries.Exec(ctx, "INSERT INTO schema_migrations (version, name, applied_at) SELECT ?, ?, now64(6)", m.version, m.name)
	if err != nil {
		return fmt.Errorf("record migration %s: %w", m.name, classify(err))
	}
	s.log.InfoContext(ctx, "schema migrated", slog.String("migration", m.name), slog.Uint64("version", uint64(m.version)))
	return nil
}

// databaseTimeout bounds looking for the database and making it.
const databaseTimeout = 30 * time.Second

// createDatabase connects to the database that always exists. It creates nothing when there is nothing to create, so that a user without
// the right to will do.
func createDatabase(ctx context.Context, opts *chgo.Options) error {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	name := opts.Auth.Database
	other := *opts
	other.Auth.Database = "default"
	db, err := chgo.Open(&other)
	if err != nil {
		return fmt.Errorf("open clickhouse: %w", err)
	}
	defer func() { _ = db.Close() }()
	var found uint64
	if err := db.QueryRow(ctx, "SELECT count() FROM system.databases WHERE name = ?", name).Scan(&found); err != nil {
		return fmt.Errorf("look for database %s: %w", name, classify(err))
	}
	if found > 0 {
		return nil
	}
	if err := db.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+quote(name)); err != nil {
		return fmt.Errorf("create database %s: %w", name, classify(err))
	}
	return nil
}

// LastSequence returns the highest stream sequence that has a row or has had one that was removed, 0 when there is none or no table yet. It reads a column of
// the whole table.
// The error is classified as that of Insert.
func (s *Store) LastSequence(ctx context.Context) (last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	for _, table := range []string{s.table, tombstoneTable} {
		db, found, err := s.lookFor(ctx, table)
		if err != nil {
			return 0, err
		}
		var seq uint64
		if found {
			err = db.QueryRow(ctx, "SELECT max(stream_seq) FROM "+quote(s.opts.Auth.Database)+"."+quote(table)).Scan(&seq)
		}
		_ = db.Close()
		if err != nil {
			return 0, fmt.Errorf("look for the highest sequence: %w", classify(err))
		}
		last = max(last, seq)
	}
	return last, nil
}

// lookFor says whether the database has a table, and returns a connection to one that always exists: the DSN's may not be there yet.
func (s *Store) lookFor(ctx context.Context, table string) (db driver.Conn, found bool, err error) {
	other := *s.opts
	other.Auth.Database = "default"
	if db, err = chgo.Open(&other); err != nil {
		return nil, false, fmt.Errorf("open clickhouse: %w", err)
	}
	var n uint64
	if err := db.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name = ?", s.opts.Auth.Database, table).Scan(&n); err != nil {
		_ = db.Close()
		return nil, false, fmt.Errorf("look for table %s: %w", table, classify(err))
	}
	return db, n > 0, nil
}

// migrations reads the files, which are part of the program: a bad name or number is a bug that no test would let pass.
func migrations() []migration {
	files, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil || len(files) == 0 {
		panic(fmt.Sprintf("no migrations in the program: %v", err))
	}
	slices.Sort(files)
	out := make([]migration, 0, len(files))
	for i, file := range files {
		name := strings.TrimSuffix(path.Base(file), ".sql")
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.ParseUint(number, 10, 32)
		if err != nil || version != uint64(i+1) {
			panic(fmt.Sprintf("migration %s: want number %d", file, i+1))
		}
		sql, err := migrationFiles.ReadFile(file)
		if err != nil {
			panic(err)
		}
		out = append(out, migration{version: uint32(version), name: name, sql: statements(string(sql)), run: code[uint32(version)]})
	}
	return out
}
