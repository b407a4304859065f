package clickhouse_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	chgo "github.com/ClickHouse/clickhouse-go/v2"

	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/services/ingester/internal/clickhouse"
)

// outcome names what an error of Insert tells its caller.
func outcome(err error) string {
	switch {
	case err == nil:
		return "durable"
	case errors.Is(err, clickhouse.ErrInDoubt) && errors.Is(err, clickhouse.ErrTransient):
		return "contradiction"
	case errors.Is(err, clickhouse.ErrInDoubt):
		return "in doubt"
	case errors.Is(err, clickhouse.ErrTransient):
		return "transient"
	}
	return "fatal"
}

// Ensure each line of the table has ClickHouse's own name for its code and leads to the outcome it says, from either client library.
func TestClasses(t *testing.T) {
	db := openDB(t, fmt.Sprintf("clickhouse://127.0.0.1:%d", shared.ClickHousePort()))
	seen := map[int32]bool{}
	for _, c := range clickhouse.ListedClasses() {
		var name string
		if err := db.QueryRow(t.Context(), "SELECT errorCodeToName(?)", c.Code).Scan(&name); err != nil || name != c.Name {
			t.Errorf("code %d is %s to the server, %s in the table (%v)", c.Code, name, c.Name, err)
		}
		if seen[c.Code] {
			t.Errorf("code %d stands twice in the table", c.Code)
		}
		seen[c.Code] = true
		unsent := "fatal"
		if c.Transient {
			unsent = "transient"
		}
		sent := "in doubt"
		if c.Refused {
			sent = unsent
		}
		native := fmt.Errorf("handle packet: %w", &ch.Exception{Code: proto.Error(c.Code), Message: "no"})
		fromView := &ch.Exception{Code: proto.Error(c.Code), Message: "no: while pushing to view audit.v (…)"}
		for what, got := range map[string][2]string{
			"before the rows were sent":  {outcome(clickhouse.ClassifyInsert(native, false)), unsent},
			"after the rows were sent":   {outcome(clickhouse.ClassifyInsert(native, true)), sent},
			"from a view":                {outcome(clickhouse.ClassifyInsert(fromView, true)), "in doubt"},
			"of a query, clickhouse-go":  {outcome(clickhouse.Classify(&chgo.Exception{Code: c.Code})), unsent},
			"of a query, ch-go, wrapped": {outcome(clickhouse.Classify(native)), unsent},
		} {
			if got[0] != got[1] {
				t.Errorf("%s %s: %s, want %s", c.Name, what, got[0], got[1])
			}
		}
	}
}

// Ensure what the table does not list is never taken for final, and never for applied.
func TestClassesOfTheUnlisted(t *testing.T) {
	for _, err := range []error{io.EOF, io.ErrUnexpectedEOF, context.DeadlineExceeded, context.Canceled, ch.ErrClosed, &ch.Exception{Code: 31337}} {
		if got := outcome(clickhouse.ClassifyInsert(err, false)); got != "transient" {
			t.Errorf("%v before the rows were sent: %s", err, got)
		}
		if got := outcome(clickhouse.ClassifyInsert(err, true)); got != "in doubt" {
			t.Errorf("%v after the rows were sent: %s", err, got)
		}
	}
}

// Ensure the server's refusals come out as the table says, on the server itself.
func TestServerRefuses(t *testing.T) {
	for _, tc := range []struct {
		name, params, want, code string
		before, repair           []string
	}{
		{
			name: "too many parts", want: "transient", code: "252",
			before: []string{"SYSTEM STOP MERGES event_log", "ALTER TABLE event_log MODIFY SETTING parts_to_throw_insert = 1"},
			repair: []string{"ALTER TABLE event_log RESET SETTING parts_to_throw_insert"},
		},
		{
			name: "read-only table", want: "transient", code: "774",
			before: []string{"ALTER TABLE event_log MODIFY SETTING table_readonly = 1"},
			repair: []string{"ALTER TABLE event_log MODIFY SETTING table_readonly = 0"},
		},
		{name: "no memory", params: "max_memory_usage=20000", want: "in doubt", code: "241"},
		{name: "no table", want: "fatal", code: "60", before: []string{"RENAME TABLE event_log TO away"}, repair: []string{"RENAME TABLE away TO event_log"}},
		{name: "no column", want: "fatal", code: "16", before: []string{"ALTER TABLE event_log RENAME COLUMN actor_id TO a"}, repair: []string{"ALTER TABLE event_log RENAME COLUMN a TO actor_id"}},
		{name: "read-only user", params: "readonly=1", want: "fatal", code: "164"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := setup(t, shared, "")
			if err := f.Insert(t.Context(), block(1, 1), "3:0:1"); err != nil {
				t.Fatal(err)
			}
			for _, q := range tc.before {
				f.exec(t, q)
			}
			s := openStore(t, f.dsn+tc.params)
			err := s.Insert(t.Context(), block(2, 200), "3:1:1")
			if outcome(err) != tc.want || !strings.Contains(err.Error(), tc.code) {
				t.Fatalf("%v: %s, want %s by code %s", err, outcome(err), tc.want, tc.code)
			}
			for _, q := range tc.repair {
				f.exec(t, q)
			}
			if n := f.number(t, "SELECT count() FROM event_log"); n != 1 {
				t.Fatalf("%d rows after the refusal, want 1", n)
			}
			if err := f.Insert(t.Context(), block(2, 200), "3:1:1"); err != nil {
				t.Fatal(err)
			}
			f.wantSeqs(t, 1, 200)
		})
	}
}

// Ensure wrong credentials and a database that is not there are final. Each has an engine of its own: the one of the local stack may die of a
// refused handshake.
func TestWrongAddressIsFatal(t *testing.T) {
	for _, address := range []string{"default:wrong@%s/default", "nobody@%s/default", "%s/nowhere"} {
		t.Run(address, func(t *testing.T) {
			own := stacktest.Start(t)
			s := openStore(t, "clickhouse://"+fmt.Sprintf(address, fmt.Sprintf("127.0.0.1:%d", own.ClickHousePort())))
			if err := s.Insert(t.Context(), block(1, 1), "x"); outcome(err) != "fatal" {
				t.Errorf("%v: %s, want fatal", err, outcome(err))
			}
		})
	}
}

// Ensure an exception of a view, thrown when its source may have been written, leaves the outcome in doubt; and that the same token repairs it.
func TestViewThrows(t *testing.T) {
	f := setup(t, shared, "")
	f.exec(t, "CREATE TABLE v_target (n UInt64) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 100")
	f.exec(t, "CREATE MATERIALIZED VIEW v TO v_target AS SELECT throwIf(stream_seq = 5) AS n FROM event_log")
	if err := f.Insert(t.Context(), block(1, 10), "3:1:1"); outcome(err) != "in doubt" {
		t.Fatalf("insert: %v, want in doubt", err)
	}
	f.exec(t, "DROP VIEW v")
	f.settleByHand(t, block(1, 10), "3:1:")
	f.wantSeqs(t, 1, 10)
}
