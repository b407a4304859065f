package clickhouse_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/auditlog/services/ingester/internal/clickhouse"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Ensure the schema is the one written down, as the engine understands it.
func TestSchemaGolden(t *testing.T) {
	f := setup(t, shared, "")
	database := fmt.Sprintf("test_%d", databases.Load())
	for _, table := range []string{"event_log", "events", "event_hours", "event_hours_progress", "events_hourly", "control_log", "tombstones"} {
		var ddl string
		if err := f.db.QueryRow(t.Context(), "SHOW CREATE TABLE "+table).Scan(&ddl); err != nil {
			t.Fatal(err)
		}
		got := strings.ReplaceAll(ddl, database, "audit") + "\n"
		path := filepath.Join("testdata", table+".sql")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s differs from %s (write it anew with -update when that is intended):\n%s", table, path, got)
		}
	}
}

// Ensure an insert names every column that the table does not compute, with the table's own types.
func TestColumnsMatchTable(t *testing.T) {
	f := setup(t, shared, "")
	var columns []struct {
		Name string `ch:"name"`
		Type string `ch:"type"`
	}
	err := f.db.Select(t.Context(), &columns, `SELECT name, type FROM system.columns
		WHERE database = currentDatabase() AND table = 'event_log' AND default_kind != 'MATERIALIZED' ORDER BY position`)
	if err != nil {
		t.Fatal(err)
	}
	var want [][2]string
	for _, c := range columns {
		want = append(want, [2]string{c.Name, c.Type})
	}
	if got := clickhouse.ColumnTypes(); !slices.Equal(got, want) {
		t.Errorf("insert sends\n%v\nthe table has\n%v", got, want)
	}
}

// Ensure processes that start at once, and again later, all succeed, and that nobody's rows go.
func TestMigrateAtOnceAndAgain(t *testing.T) {
	dsn := fmt.Sprintf("clickhouse://127.0.0.1:%d/test_%d", shared.ClickHousePort(), databases.Add(1))
	var wg sync.WaitGroup
	for range 8 {
		s := openStore(t, dsn)
		wg.Go(func() {
			if err := s.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := openStore(t, dsn)
	if err := s.Insert(t.Context(), block(1, 3), "m"); err != nil {
		t.Fatal(err)
	}
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	f := &fixture{Store: s, dsn: dsn, db: openDB(t, dsn)}
	f.wantSeqs(t, 1, 3)
	if n := f.number(t, "SELECT uniqExact(version) FROM schema_migrations"); n != uint64(clickhouse.Versions()) {
		t.Errorf("%d versions are recorded, want %d", n, clickhouse.Versions())
	}
}

// Ensure a killed migration is begun again, and one that fails is not recorded.
func TestMigrateFailsHalfway(t *testing.T) {
	f := setup(t, shared, "")
	err := f.MigrateTo(t.Context(), "CREATE TABLE IF NOT EXISTS more (x UInt8) ENGINE = Null; SELECT nonsense")
	if err == nil || errors.Is(err, clickhouse.ErrTransient) {
		t.Fatalf("migrate: %v, want a final error", err)
	}
	if err := f.MigrateTo(t.Context(), "CREATE TABLE IF NOT EXISTS more (x UInt8) ENGINE = Null; SELECT 1"); err != nil {
		t.Fatal(err)
	}
	if n := f.number(t, "SELECT toUInt64(max(version)) FROM schema_migrations"); n != uint64(clickhouse.Versions())+1 {
		t.Errorf("version %d, want %d", n, clickhouse.Versions()+1)
	}
}

// Ensure an older program leaves a newer schema alone.
func TestMigrateRefusesNewer(t *testing.T) {
	f := setup(t, shared, "")
	if err := f.MigrateTo(t.Context(), "SELECT 1"); err != nil {
		t.Fatal(err)
	}
	newer := fmt.Sprintf("version %d", clickhouse.Versions()+1)
	err := f.Migrate(t.Context())
	if !errors.Is(err, clickhouse.ErrSchemaNewer) || errors.Is(err, clickhouse.ErrTransient) || !strings.Contains(err.Error(), newer) {
		t.Errorf("migrate: %v, want ErrSchemaNewer that names %s", err, newer)
	}
}

func TestStatements(t *testing.T) {
	for _, tc := range []struct {
		name, sql string
		want      []string
	}{
		{"none", "", nil},
		{"comments only", "-- a; b\n/* c; */ ;; \n", nil},
		{"two", "SELECT 1;\nSELECT 2", []string{"SELECT 1", "SELECT 2"}},
		{"line comment", "SELECT 1 -- one; or two\n, 2;", []string{"SELECT 1 -- one; or two\n, 2"}},
		{"comment at the end", "SELECT 1; -- done; really", []string{"SELECT 1"}},
		{"block comment", "SELECT /* ; ' */ 1; SELECT 2;", []string{"SELECT /* ; ' */ 1", "SELECT 2"}},
		{"text", `SELECT ';--', '\';', "a;b", ` + "`;`" + `; SELECT 'it''s;'`, []string{`SELECT ';--', '\';', "a;b", ` + "`;`", `SELECT 'it''s;'`}},
		{"minus", "SELECT 3-1;", []string{"SELECT 3-1"}},
		{"unclosed", "SELECT 'a; b", []string{"SELECT 'a; b"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := clickhouse.Statements(tc.sql); !slices.Equal(got, tc.want) {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}
