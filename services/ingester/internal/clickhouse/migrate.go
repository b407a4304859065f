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
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one numbered file. Numbers only grow, and a file that was released never changes.
//
// ClickHouse has neither transactions over DDL nor a lock for us to hold, so a runner such as goose cannot keep two processes apart. Instead every
// statement must be one that can be repeated (IF NOT EXISTS, OR REPLACE): two processes that start at once do the same work twice, and one that
// was killed in the middle of a file begins it again.
type migration struct {
	version uint32
	name    string
	sql     []string
}

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
	return migrate(ctx, s.opts, s.log, migrations())
}

func migrate(ctx context.Context, opts *chgo.Options, log *slog.Logger, todo []migration) error {
	if err := createDatabase(ctx, opts); err != nil {
		return err
	}
	db, err := chgo.Open(opts)
	if err != nil {
		return fmt.Errorf("open clickhouse: %w", err)
	}
	defer func() { _ = db.Close() }()
	if err := db.Exec(ctx, ledgerTable); err != nil {
		return fmt.Errorf("create the table of migrations: %w", classify(err))
	}
	var at uint32
	if err := db.QueryRow(ctx, "SELECT max(version) FROM schema_migrations").Scan(&at); err != nil {
		return fmt.Errorf("read the version of the schema: %w", classify(err))
	}
	if newest := todo[len(todo)-1].version; at > newest {
		return fmt.Errorf("%w: database %s is at version %d, this program knows %d: run a newer program",
			ErrSchemaNewer, opts.Auth.Database, at, newest)
	}
	for _, m := range todo {
		if m.version <= at {
			continue
		}
		for _, statement := range m.sql {
			if err := db.Exec(ctx, statement); err != nil {
				return fmt.Errorf("migrate to %s: %w", m.name, classify(err))
			}
		}
		err := db.Exec(ctx, "INSERT INTO schema_migrations (version, name, applied_at) SELECT ?, ?, now64(6)", m.version, m.name)
		if err != nil {
			return fmt.Errorf("record migration %s: %w", m.name, classify(err))
		}
		log.InfoContext(ctx, "schema migrated", slog.String("migration", m.name), slog.Uint64("version", uint64(m.version)))
	}
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

// LastSequence returns the highest stream sequence that has a row, 0 when there is none or no table yet. It reads a column of the whole table.
// The error is classified as that of Insert.
func (s *Store) LastSequence(ctx context.Context) (last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	other := *s.opts
	other.Auth.Database = "default" // the DSN's may not be there yet
	db, err := chgo.Open(&other)
	if err != nil {
		return 0, fmt.Errorf("open clickhouse: %w", err)
	}
	defer func() { _ = db.Close() }()
	var found uint64
	if err := db.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name = ?", s.opts.Auth.Database, s.table).Scan(&found); err != nil {
		return 0, fmt.Errorf("look for table %s: %w", s.table, classify(err))
	}
	if found == 0 {
		return 0, nil
	}
	if err := db.QueryRow(ctx, "SELECT max(stream_seq) FROM "+quote(s.opts.Auth.Database)+"."+quote(s.table)).Scan(&last); err != nil {
		return 0, fmt.Errorf("look for the highest sequence: %w", classify(err))
	}
	return last, nil
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
		out = append(out, migration{version: uint32(version), name: name, sql: statements(string(sql))})
	}
	return out
}
