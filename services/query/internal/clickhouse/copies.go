package clickhouse

import (
	"context"
	"fmt"
	"strings"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/ext"
	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
)

// An event that was published twice, with other fields, is what its first copy says: the row with the lowest sequence. Until a merge has removed the later
// ones, each of them may match a filter that the first does not.

// fold keeps of neighbours that are copies of one event the first one of the stream.
func fold(rows []audit.Event) []audit.Event {
	out := rows[:0]
	for i := range rows {
		if n := len(out); n > 0 && isCopy(&out[n-1], &rows[i]) {
			if rows[i].Seq < out[n-1].Seq {
				out[n-1] = rows[i]
			}
			continue
		}
		out = append(out, rows[i])
	}
	return out
}

// isCopy says whether two rows of a tenant are of one event.
func isCopy(a, b *audit.Event) bool { return a.ID == b.ID && a.CreatedAt.Equal(b.CreatedAt) }

// withoutLast is rows without those of the last event among them.
func withoutLast(rows []audit.Event) []audit.Event {
	n := len(rows)
	for n > 0 && isCopy(&rows[n-1], &rows[len(rows)-1]) {
		n--
	}
	return rows[:n]
}

// eventKey is an event's identity within its tenant.
type eventKey struct {
	createdAt int64 // microseconds since 1970
	id        uuid.UUID
}

func keyOf(e *audit.Event) eventKey { return eventKey{e.CreatedAt.UnixMicro(), e.ID} }

// laterMatches is laterCopies for rows that were found by a filter or a scope, of which fold has all that match. Where nothing was filtered it has seen all copies.
func (r *Reader) laterMatches(ctx context.Context, scope policy.Scope, f *audit.Filter, rows []audit.Event) ([]bool, error) {
	if scope.Whole() && !f.Narrows() {
		return make([]bool, len(rows)), nil
	}
	return r.laterCopies(ctx, scope.Tenant(), rows)
}

// laterCopies says which rows are copies of an event that the table has with a lower sequence. It asks without any filter: it is the first copy that
// counts, whether or not it matches. The rows' own times lead to them in the primary key, a granule for each.
func (r *Reader) laterCopies(ctx context.Context, tenant uuid.UUID, rows []audit.Event) ([]bool, error) {
	out := make([]bool, len(rows))
	if len(rows) == 0 {
		return out, nil
	}
	first, err := r.firstCopies(ctx, tenant, rows)
	if err != nil {
		return nil, fmt.Errorf("look for copies: %w", err)
	}
	for i := range rows {
		out[i] = first[keyOf(&rows[i])] < rows[i].Seq
	}
	return out, nil
}

// firstCopies is the lowest sequence of each event of rows, among rows and what else the table has: of most events nothing. A merge may have removed a row
// since it was read, which leaves the lower one of its copies alone.
//
// The keys go along as a table of their own: as parameters, 16,384 of them take the server longer to parse than to look up.
func (r *Reader) firstCopies(ctx context.Context, tenant uuid.UUID, rows []audit.Event) (map[eventKey]uint64, error) {
	keys, err := ext.NewTable("page", ext.Column("at", "DateTime64(6, 'UTC')"), ext.Column("id", "UUID"), ext.Column("seq", "UInt64"))
	if err != nil {
		return nil, fmt.Errorf("make a table of keys: %w", err)
	}
	for i := range rows {
		if err := keys.Append(rows[i].CreatedAt, rows[i].ID, rows[i].Seq); err != nil {
			return nil, fmt.Errorf("fill a table of keys: %w", err)
		}
	}
	s := newTenantStatement(tenant, r.partition(tenant))
	s.terms = append(s.terms, "created_at IN (SELECT at FROM page)", "id IN (SELECT id FROM page)", "(created_at, id, stream_seq) NOT IN (SELECT at, id, seq FROM page)")
	found, done, err := r.query(ctx, "SELECT created_at, id, stream_seq\nFROM event_log\nWHERE "+strings.Join(s.terms, "\n  AND "), s.named(), chgo.WithExternalTable(keys))
	if err != nil {
		return nil, err
	}
	defer done()
	defer func() { _ = found.Close() }()
	lowest := make(map[eventKey]uint64, len(rows))
	note := func(e *audit.Event) {
		if seq, there := lowest[keyOf(e)]; !there || e.Seq < seq {
			lowest[keyOf(e)] = e.Seq
		}
	}
	for i := range rows {
		note(&rows[i])
	}
	for found.Next() {
		var e audit.Event
		if err := found.Scan(&e.CreatedAt, &e.ID, &e.Seq); err != nil {
			return nil, fmt.Errorf("%w: %w", errRow, err)
		}
		note(&e)
	}
	if err := found.Err(); err != nil {
		return nil, err
	}
	return lowest, ctx.Err()
}
