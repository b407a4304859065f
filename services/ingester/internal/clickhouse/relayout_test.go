package clickhouse_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/services/ingester/internal/clickhouse"
)

// old makes a database of the layout before 0003, with rows 1 to n over three years.
func old(t *testing.T, s *stack.Stack, n uint64) *fixture {
	t.Helper()
	dsn := fmt.Sprintf("clickhouse://127.0.0.1:%d/test_%d", s.ClickHousePort(), databases.Add(1))
	f := &fixture{dsn: dsn, Store: openStore(t, dsn), db: openDB(t, dsn)}
	if err := f.MigrateUpTo(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	c := new(clickhouse.Columns)
	for seq := uint64(1); seq <= n; seq++ {
		appendEvent(c, seq, november-int64(seq%3)*400*day)
	}
	if err := f.Insert(t.Context(), c, "old"); err != nil {
		t.Fatal(err)
	}
	return f
}

const contents = "SELECT sum(cityHash64(toString(tuple(*, version)))) FROM event_log"

// wantRelaid fails unless the table has the new layout, exactly the rows 1 to n, and nothing stands beside it.
func (f *fixture) wantRelaid(t *testing.T, n uint64) {
	t.Helper()
	if got := f.number(t, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'event_log' AND partition_key = '(partition, toYear(created_at))'"); got != 1 {
		t.Error("the table has not the new layout")
	}
	if got := f.number(t, "SELECT count() FROM event_log"); got != n {
		t.Errorf("%d rows, want %d", got, n)
	}
	if got := f.number(t, "SELECT uniqExact(stream_seq) FROM event_log WHERE stream_seq BETWEEN 1 AND ?", n); got != n {
		t.Errorf("%d sequences, want %d", got, n)
	}
	if got := f.number(t, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name NOT IN ('event_log', 'events', 'schema_migrations', 'event_hours', 'event_hours_progress', 'events_hourly', 'control_log', 'tombstones')"); got != 0 {
		t.Errorf("%d tables are left behind", got)
	}
	if got := f.number(t, "SELECT count() FROM events"); got != n {
		t.Errorf("%d rows in the view, want %d", got, n)
	}
}

// Ensure the rows of an older database come through the change of layout as they were, and that later inserts go on.
func TestRelayoutKeepsRows(t *testing.T) {
	f := old(t, shared, 3000)
	before := f.number(t, contents)
	if err := f.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wantRelaid(t, 3000)
	if got := f.number(t, contents); got != before {
		t.Error("rows have changed")
	}
	if err := f.Insert(t.Context(), block(3001, 3010), "new"); err != nil {
		t.Fatal(err)
	}
	f.wantRelaid(t, 3010)
}

// Ensure a migration that was killed anywhere is finished by the next one.
func TestRelayoutAfterDeath(t *testing.T) {
	sql := clickhouse.RelayoutStatements()
	mirror := "CREATE MATERIALIZED VIEW event_log_next_mirror TO event_log_next AS SELECT * FROM event_log"
	some := "INSERT INTO event_log_next SELECT * FROM event_log WHERE stream_seq % 2 = 0"
	all := "INSERT INTO event_log_next SELECT * FROM event_log"
	for name, done := range map[string][]string{
		"Made":       {sql[0]},
		"Mirrored":   {sql[0], mirror},
		"HalfFull":   {sql[0], mirror, some},
		"Full":       {sql[0], mirror, all},
		"Swapped":    {sql[0], mirror, all, sql[1]},
		"Caught":     {sql[0], mirror, "INSERT INTO event_log_next SELECT * FROM event_log WHERE stream_seq < 250", sql[1]},
		"Unmirrored": {sql[0], mirror, all, sql[1], "DROP VIEW event_log_next_mirror SYNC"},
		"Dropped":    {sql[0], all, sql[1], sql[2]},
	} {
		t.Run(name, func(t *testing.T) {
			f := old(t, shared, 300)
			before := f.number(t, contents)
			for _, statement := range done {
				f.exec(t, statement)
			}
			if err := f.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.wantRelaid(t, 300)
			if got := f.number(t, contents); got != before {
				t.Error("rows have changed")
			}
		})
	}
}

// Ensure no row is lost or doubled while an older ingester goes on inserting, and several newer ones migrate at once.
func TestRelayoutBesideInserts(t *testing.T) {
	f := old(t, shared, 100)
	stop := make(chan struct{})
	var writer, migrators sync.WaitGroup
	last := uint64(100)
	writer.Go(func() {
		for {
			if err := f.Insert(context.Background(), block(last+1, last+5), fmt.Sprint("beside:", last)); err != nil {
				t.Error(err)
				return
			}
			last += 5
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for range 3 {
		s := openStore(t, f.dsn)
		migrators.Go(func() {
			if err := s.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	migrators.Wait()
	close(stop)
	writer.Wait()
	if last == 100 {
		t.Fatal("nothing was inserted meanwhile")
	}
	f.wantRelaid(t, last)
}

// Ensure the layout is left alone while a rebuild of an older program could swap its own table in.
func TestRelayoutRefusesRebuild(t *testing.T) {
	f := old(t, shared, 10)
	if err := f.StartBeside(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.Migrate(t.Context()); err == nil || errors.Is(err, clickhouse.ErrTransient) {
		t.Errorf("migrate: %v, want a final error", err)
	}
	if err := errors.Join(f.StopMirror(t.Context()), f.DropBeside(t.Context()), f.Migrate(t.Context())); err != nil {
		t.Fatal(err)
	}
	f.wantRelaid(t, 10)
}

// Ensure a lock is one process's at a time, is free again when that one releases it or dies, and tells its holder when it is lost.
func TestLock(t *testing.T) {
	f := setup(t, shared, "")
	_, release, err := f.Lock(t.Context(), "test-lock")
	if err != nil {
		t.Fatal(err)
	}
	second, err := clickhouse.Open(t.Context(), f.dsn, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, _, err := second.Lock(short, "test-lock"); err == nil {
		t.Fatal("two have the lock")
	}
	release()
	held, release, err := second.Lock(t.Context(), "test-lock")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	f.exec(t, "KILL QUERY WHERE query_id = 'test-lock' SYNC")
	select {
	case <-held.Done():
	case <-time.After(30 * time.Second):
		t.Error("the holder does not know that the lock is lost")
	}
}
