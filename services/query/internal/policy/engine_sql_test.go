package policy

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy/predicate"
)

// eventTable has the columns of audit.event_log that conditions speak of, with its types and its order, and granules so small that every
// condition also meets the primary key.
const eventTable = `CREATE TABLE policy_rows (
	n UInt32, tenant_id UUID, created_at DateTime64(6, 'UTC'), id UUID, actor_id String, actor_type LowCardinality(String),
	action LowCardinality(String), resource_type LowCardinality(String), resource_id String, reasoning Nullable(String)
) ENGINE = MergeTree PARTITION BY toYYYYMM(created_at) ORDER BY (tenant_id, created_at, toUInt128(id), n) SETTINGS index_granularity = 8`

func connect(t *testing.T) driver.Conn {
	t.Helper()
	s := stacktest.Start(t)
	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{fmt.Sprintf("127.0.0.1:%d", s.ClickHousePort())}, Auth: clickhouse.Auth{Database: "default"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// fill writes rows of tenantA, and the same rows as tenantB's.
func fill(t *testing.T, conn driver.Conn, rows []*audit.Event) {
	t.Helper()
	ctx := t.Context()
	if err := conn.Exec(ctx, eventTable); err != nil {
		t.Fatal(err)
	}
	b, err := conn.PrepareBatch(ctx, "INSERT INTO policy_rows")
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range rows {
		for j, tenant := range []any{tenantA, tenantB} {
			n := uint32(i + j*len(rows))
			if err := b.Append(n, tenant, e.CreatedAt, e.ID, e.ActorID, e.ActorType, e.Action, e.ResourceType, e.ResourceID, e.Reasoning); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := b.Send(); err != nil {
		t.Fatal(err)
	}
}

// selected are the numbers of the rows that a condition selects on the engine.
func selected(ctx context.Context, conn driver.Conn, where string, args map[string]any) ([]int, error) {
	var named []any
	for k, v := range args {
		named = append(named, clickhouse.Named(k, v))
	}
	rows, err := conn.Query(ctx, "SELECT n FROM policy_rows WHERE "+where+" ORDER BY n", named...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out []int
	for rows.Next() {
		var n uint32
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		out = append(out, int(n))
	}
	return out, rows.Err()
}

// The SQL must select on the real engine what Cedar permits.
func TestSQLEqualsCedar(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	m, err := loadModel()
	if err != nil {
		t.Fatal(err)
	}
	g := newGen(5)
	rows := make([]*audit.Event, 400)
	for i := range rows {
		rows[i] = g.row()
	}
	fill(t, conn, rows)
	start, shown, queries := time.Now(), 0, 0
	for i := range 300 {
		g.wild = i%3 == 0
		text := g.policies()
		rules, clean := bundle(t, m, text)
		r := g.request()
		p := planRows(rules, newEntities(m, r), r)
		where, args := p.where()
		got, err := selected(t.Context(), conn, where, args)
		if err != nil {
			t.Fatalf("%v: %s %q", err, where, args)
		}
		queries++
		residual := p.compiled()
		for n, e := range rows {
			sees, cedars := slices.Contains(got, n), verdict(p, rules, e)
			if sees {
				shown++
			}
			if sees && !cedars || clean && cedars && !sees || gaps(p) == 0 && sees != p.authorize(residual, e) {
				t.Fatalf("the engine says %t and Cedar %t of %+v by\n%s\n%s %q", sees, cedars, e, text, where, args)
			}
		}
		if len(got) > 0 && got[len(got)-1] >= len(rows) {
			t.Fatalf("a row of another tenant by\n%s\n%s %q", text, where, args)
		}
	}
	t.Logf("%d queries, %d rows decided, %d shown, %v", queries, queries*len(rows), shown, time.Since(start))
	var longest []*predicate.Cond
	for _, col := range []predicate.Column{predicate.Action, predicate.ResourceID, predicate.Reasoning} {
		longest = append(longest, predicate.In(col, many(maxInValues)...))
	}
	where, args := predicate.SQL(predicate.Or(longest...), paramPrefix)
	if _, err := selected(t.Context(), conn, where, args); err != nil {
		t.Errorf("a long condition, %d bytes: %.300s", len(where), err)
	}
	if shown < 10000 {
		t.Errorf("only %d rows shown: the generator has lost its bite", shown)
	}
}
