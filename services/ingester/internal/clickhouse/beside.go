package clickhouse

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	// BuildTable is where a rebuild makes the new table, and what the old one is called between the swap and its end.
	BuildTable = "event_log_building"
	// mirrorView carries every live insert into BuildTable as well, as part of the same insert.
	mirrorView = "event_log_mirror"
	// writersPoll is how long WaitWriters waits before it looks again.
	writersPoll = 50 * time.Millisecond
)

// Beside is what a rebuild has left in the database, or is at.
type Beside struct {
	// Building and Mirror say whether BuildTable and the mirror exist.
	Building, Mirror bool
	// Mark is the comment of the live table, set by SwapBeside: not empty when the tables were swapped and the rest is still to be done.
	Mark string
}

// Beside looks what is there. The errors of this and the methods below are classified as that of Insert.
func (s *Store) Beside(ctx context.Context) (b Beside, err error) {
	rows, err := s.queries.Query(ctx, "SELECT name, comment FROM system.tables WHERE database = currentDatabase() AND name IN (?, ?, ?)", EventTable, BuildTable, mirrorView)
	if err != nil {
		return b, fmt.Errorf("look for what a rebuild left: %w", classify(err))
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name, comment string
		if err := rows.Scan(&name, &comment); err != nil {
			return b, fmt.Errorf("look for what a rebuild left: %w", err)
		}
		switch name {
		case EventTable:
			b.Mark = comment
		case BuildTable:
			b.Building = true
		case mirrorView:
			b.Mirror = true
		}
	}
	if err := rows.Err(); err != nil {
		return b, fmt.Errorf("look for what a rebuild left: %w", classify(err))
	}
	return b, nil
}

// StartBeside creates BuildTable, empty, and lets every insert that begins after this go there too. It fails when either is there already.
func (s *Store) StartBeside(ctx context.Context) error {
	return s.steps(ctx, "begin a table beside the live one",
		"CREATE TABLE "+BuildTable+" AS "+EventTable,
		"CREATE MATERIALIZED VIEW "+mirrorView+" TO "+BuildTable+" AS SELECT "+columnNames()+" FROM "+EventTable)
}

// SwapBeside gives the two tables each other's name in one step, and marks the one that is live from then on.
func (s *Store) SwapBeside(ctx context.Context, mark string) error {
	return s.steps(ctx, "swap the tables",
		"ALTER TABLE "+BuildTable+" MODIFY COMMENT "+literal(mark),
		"EXCHANGE TABLES "+EventTable+" AND "+BuildTable)
}

// StopMirror ends what StartBeside began, and waits for the inserts that still saw it. It does nothing when there is no mirror.
func (s *Store) StopMirror(ctx context.Context) error {
	if err := s.steps(ctx, "stop the mirror", "DROP VIEW IF EXISTS "+mirrorView+" SYNC"); err != nil {
		return err
	}
	return s.WaitWriters(ctx)
}

// DropBeside drops BuildTable, and takes the mark from the live table first. The mirror must be stopped: live inserts would fail without its target.
func (s *Store) DropBeside(ctx context.Context) error {
	return s.steps(ctx, "drop the table beside the live one",
		"ALTER TABLE "+EventTable+" MODIFY COMMENT ''",
		"DROP TABLE IF EXISTS "+BuildTable+" SYNC")
}

// WaitWriters returns when every insert into the event table that runs now has ended.
func (s *Store) WaitWriters(ctx context.Context) error {
	before, err := s.writers(ctx)
	for err == nil && len(before) > 0 {
		select {
		case <-time.After(writersPoll):
		case <-ctx.Done():
			return fmt.Errorf("wait for %d running inserts: %w", len(before), ctx.Err())
		}
		var now map[string]struct{}
		now, err = s.writers(ctx)
		for id := range before {
			if _, still := now[id]; !still {
				delete(before, id)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("wait for running inserts: %w", classify(err))
	}
	return nil
}

// writers are the ids of the inserts of this database that run on the server that is asked.
func (s *Store) writers(ctx context.Context) (map[string]struct{}, error) {
	var rows []struct {
		ID string `ch:"query_id"`
	}
	err := s.queries.Select(ctx, &rows, "SELECT query_id FROM system.processes WHERE query_kind = 'Insert' AND current_database = currentDatabase()")
	out := make(map[string]struct{}, len(rows))
	for _, r := range rows {
		out[r.ID] = struct{}{}
	}
	return out, err
}

// ClearBeside deletes from BuildTable what the mirror has brought of the partition up to a sequence.
func (s *Store) ClearBeside(ctx context.Context, partition int, upTo uint64) error {
	return s.steps(ctx, fmt.Sprintf("clear partition %d beside", partition),
		fmt.Sprintf("ALTER TABLE %s DELETE WHERE partition = %d AND stream_seq <= %d SETTINGS mutations_sync = 2", BuildTable, partition, upTo))
}

// Kept says which rows of the live table a rebuild keeps: those below a sequence, and with a tenant all of the others'.
type Kept struct {
	Below  uint64
	Tenant *uuid.UUID
}

func (k Kept) where() string {
	where := fmt.Sprintf("stream_seq < %d", k.Below)
	if k.Tenant != nil {
		where = fmt.Sprintf("(%s OR tenant_id != '%s')", where, k.Tenant)
	}
	return where
}

// KeepRows copies the rows of the partition that a rebuild keeps, up to a sequence, into BuildTable, and returns how many it has then.
func (s *Store) KeepRows(ctx context.Context, partition int, k Kept, upTo uint64) (uint64, error) {
	where := fmt.Sprintf("partition = %d AND stream_seq <= %d AND %s", partition, upTo, k.where())
	if err := s.copyYears(ctx, EventTable, BuildTable, where); err != nil {
		return 0, err
	}
	var n uint64
	if err := s.queries.QueryRow(ctx, "SELECT count() FROM "+BuildTable+" WHERE "+where).Scan(&n); err != nil {
		return 0, fmt.Errorf("count kept rows of partition %d: %w", partition, classify(err))
	}
	return n, nil
}

// CopyMissing copies into one table what the other has of the partition after a sequence, up to another, and it has not. Nothing may be inserting
// rows of these sequences.
func (s *Store) CopyMissing(ctx context.Context, from, to string, partition int, after, upTo uint64) error {
	newer := fmt.Sprintf("partition = %d AND stream_seq > %d AND stream_seq <= %d", partition, after, upTo)
	return s.copyRows(ctx, from, to, fmt.Sprintf("%s AND stream_seq NOT IN (SELECT stream_seq FROM %s WHERE %s)", newer, quote(to), newer))
}

// copyRows copies rows between two tables of this shape. A block that comes twice is no duplicate of another one here: each copy is made once.
func (s *Store) copyRows(ctx context.Context, from, to, where string) error {
	return s.steps(ctx, "copy rows from "+from+" to "+to, fmt.Sprintf(`INSERT INTO %s (%s) SELECT %s FROM %s WHERE %s
		SETTINGS async_insert = 0, insert_deduplicate = 0, optimize_on_insert = 0, max_partitions_per_insert_block = 0, max_execution_time = 0`,
		quote(to), columnNames(), columnNames(), quote(from), where))
}

// steps runs statements one after the other.
func (s *Store) steps(ctx context.Context, what string, statements ...string) error {
	for _, statement := range statements {
		if err := s.queries.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", what, classify(err))
		}
	}
	return nil
}

// columnNames lists the columns that are written, for a statement.
func columnNames() string {
	input := new(Columns).input()
	names := make([]string, len(input))
	for i, c := range input {
		names[i] = quote(c.Name)
	}
	return strings.Join(names, ", ")
}

// literal makes a text of SQL.
func literal(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}
