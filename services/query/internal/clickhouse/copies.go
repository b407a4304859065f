package clickhouse

import (
	"context"
	"errors"
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
	s := newTenantStatement(tenant, r.partition(tenant))
	s.terms = append(s.terms, "created_at IN (SELECT at FROM page)", "id IN (SELECT id FROM page)", "(created_at, id, stream_seq) NOT IN (SELECT at, id, seq FROM page)")
	first := make(map[eventKey]uint64, len(rows))
	for i := range rows {
		note(first, &rows[i])
	}
	return r.laterThan(ctx, s, rows, first)
}

// note keeps the lowest sequence of an event.
func note(first map[eventKey]uint64, e *audit.Event) {
	if seq, there := first[keyOf(e)]; !there || e.Seq < seq {
		first[keyOf(e)] = e.Seq
	}
}

// nearRows is how many rows for each of its own laterCopiesNear reads at most: as many as a granule has, which is what laterCopies reads for each.
const nearRows = 256

// laterCopiesNear is laterCopies for many neighbours in the order of the log, each of another event: it reads all rows from the first to the last of them, both included, which
// takes a third of the time that finding each by its key does. When there are too many others in between, which ClickHouse finds out before it reads any,
// it finds them by their keys.
//
// The functions around columns keep the sets away from the indexes, which would look for each of thousands of values. The sequence alone says which rows are
// those that are asked about, for no two messages of the stream have the same.
func (r *Reader) laterCopiesNear(ctx context.Context, tenant uuid.UUID, rows []audit.Event) ([]bool, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	s := newTenantStatement(tenant, r.partition(tenant))
	s.where("created_at >= {oldest:DateTime64(6, 'UTC')}", "oldest", rows[len(rows)-1].CreatedAt.UTC().Format(timeText))
	s.where("created_at <= {newest:DateTime64(6, 'UTC')}", "newest", rows[0].CreatedAt.UTC().Format(timeText))
	s.terms = append(s.terms, "identity(id) IN (SELECT id FROM page)", "bitXor(stream_seq, 0) NOT IN (SELECT seq FROM page)")
	settings := r.settings(ctx, nil)
	settings["max_rows_to_read"] = nearRows * len(rows)
	later, err := r.laterThan(ctx, s, rows, map[eventKey]uint64{}, chgo.WithSettings(settings))
	var e *chgo.Exception
	if errors.As(err, &e) && e.Code == tooManyRows {
		return r.laterCopies(ctx, tenant, rows)
	}
	return later, err
}

// laterThan says which rows have a lower sequence than what s finds of their events, or what is noted of them. s has the keys of rows as a table, page,
// and finds other rows alone: of most events none.
//
// Between the query that gave rows and this one a merge may have removed rows. It removes later copies alone. What makes a row a later copy was there before
// it was, for a tenant's events are inserted in the order of the stream, and stays.
//
// The keys go along as a table of their own: as parameters, 16,384 of them take the server longer to parse than to look up.
func (r *Reader) laterThan(ctx context.Context, s *statement, rows []audit.Event, first map[eventKey]uint64, options ...chgo.QueryOption) ([]bool, error) {
	out := make([]bool, len(rows))
	if len(rows) == 0 {
		return out, nil
	}
	if err := r.noteOthers(ctx, s, rows, first, options); err != nil {
		return nil, fmt.Errorf("look for copies: %w", err)
	}
	for i := 0; i < len(rows) && len(first) > 0; i++ {
		seq, noted := first[keyOf(&rows[i])]
		out[i] = noted && seq < rows[i].Seq
	}
	return out, nil
}

// noteOthers notes what s finds.
func (r *Reader) noteOthers(ctx context.Context, s *statement, rows []audit.Event, first map[eventKey]uint64, options []chgo.QueryOption) error {
	keys, err := ext.NewTable("page", ext.Column("at", "DateTime64(6, 'UTC')"), ext.Column("id", "UUID"), ext.Column("seq", "UInt64"))
	if err != nil {
		return fmt.Errorf("make a table of keys: %w", err)
	}
	for i := range rows {
		if err := keys.Append(rows[i].CreatedAt, rows[i].ID, rows[i].Seq); err != nil {
			return fmt.Errorf("fill a table of keys: %w", err)
		}
	}
	found, done, err := r.query(ctx, "SELECT created_at, id, stream_seq\nFROM event_log\nWHERE "+strings.Join(s.terms, "\n  AND "), s.named(),
		append([]chgo.QueryOption{chgo.WithExternalTable(keys)}, options...)...)
	if err != nil {
		return err
	}
	defer done()
	defer func() { _ = found.Close() }()
	for found.Next() {
		var e audit.Event
		if err := found.Scan(&e.CreatedAt, &e.ID, &e.Seq); err != nil {
			return fmt.Errorf("%w: %w", errRow, err)
		}
		note(first, &e)
	}
	if err := found.Err(); err != nil {
		return err
	}
	return ctx.Err()
}
