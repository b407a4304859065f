package clickhouse_test

import (
	"fmt"
	"testing"

	"example.com/auditlog/services/ingester/internal/clickhouse"
)

// Ensure a database of every earlier version of the schema, with rows of three years and copies of events in it, comes to the newest one with each
// row as it was, and with each event once in the view.
func TestUpgradeFromEveryVersion(t *testing.T) {
	const rows, copies = 600, 50
	for version := 1; version < clickhouse.Versions(); version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			dsn := fmt.Sprintf("clickhouse://127.0.0.1:%d/test_%d", shared.ClickHousePort(), databases.Add(1))
			f := &fixture{dsn: dsn, Store: openStore(t, dsn), db: openDB(t, dsn)}
			if err := f.MigrateUpTo(t.Context(), version); err != nil {
				t.Fatal(err)
			}
			c := new(clickhouse.Columns)
			for seq := uint64(1); seq <= rows; seq++ {
				appendEvent(c, seq, november-int64(seq%3)*400*day)
			}
			if err := f.Insert(t.Context(), c, "old"); err != nil {
				t.Fatal(err)
			}
			// The same events again, as a producer sends them that had no answer: rows of their own until a merge.
			f.exec(t, "INSERT INTO event_log (partition, tenant_id, created_at, id, actor_id, actor_type, action, resource_type, resource_id, metadata, reasoning, ingested_at, stream_seq) "+
				"SELECT partition, tenant_id, created_at, id, actor_id, actor_type, action, resource_type, resource_id, metadata, reasoning, ingested_at, stream_seq + 10000 FROM event_log WHERE stream_seq <= ?", copies)
			before := f.number(t, "SELECT sum(cityHash64(toString(tuple(*)))) FROM (SELECT * FROM event_log FINAL)")
			for range 2 { // the second time there is nothing to do
				if err := f.Migrate(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if got := f.number(t, "SELECT toUInt64(max(version)) FROM schema_migrations"); got != uint64(clickhouse.Versions()) {
				t.Errorf("version %d, want %d", got, clickhouse.Versions())
			}
			if got := f.number(t, "SELECT sum(cityHash64(toString(tuple(*)))) FROM (SELECT * FROM event_log FINAL)"); got != before {
				t.Error("rows have changed")
			}
			if got := f.number(t, "SELECT count() FROM events"); got != rows {
				t.Errorf("%d events in the view, want %d", got, rows)
			}
			if got := f.number(t, "SELECT uniqExact(stream_seq) FROM events WHERE stream_seq <= ?", rows); got != rows {
				t.Errorf("%d events are shown at their first copy, want %d", got, rows)
			}
			if err := f.Insert(t.Context(), block(rows+1, rows+5), "new"); err != nil {
				t.Fatal(err)
			}
			f.wantSeqs(t, rows+1, rows+5)
		})
	}
}
