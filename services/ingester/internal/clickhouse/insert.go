package clickhouse

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/ClickHouse/ch-go"
)

// insertSettings make an insert one block that is written when it is answered.
//
// There is no max_execution_time: an insert that the server gives up may leave less behind than its deduplication token says.
var insertSettings = []ch.Setting{
	{Key: "async_insert", Value: "0", Important: true},
	{Key: "insert_deduplicate", Value: "1", Important: true},
	// Nothing between the wire and the part cuts the block or holds it back.
	{Key: "max_insert_block_size", Value: "16777216", Important: true},
	{Key: "min_insert_block_size_rows", Value: "0", Important: true},
	{Key: "min_insert_block_size_bytes", Value: "0", Important: true},
	{Key: "max_execution_time", Value: "0", Important: true},
	// Copies of one event in a block are folded by merges, not here: read-back counts sequences.
	{Key: "optimize_on_insert", Value: "0", Important: true},
	// A batch may reach back any number of years.
	{Key: "max_partitions_per_insert_block", Value: "0", Important: true},
	// Building the index of ids is a fifth of what an insert costs. Merges build it; until then one event is looked for in the ids of the newest, small parts.
	{Key: "exclude_materialize_skip_indexes_on_insert", Value: "event_ids", Important: true},
	{Key: "send_logs_level", Value: "none", Important: true},
	// A client that stalls while it sends, as one that is paused, must not hold its successor up: KILL QUERY waits until the server has stopped reading, which
	// it does for 300 s by itself. With the 4.6 s until it is not counted on any more, others take over within 10 s. What is not whole is not applied.
	{Key: "receive_timeout", Value: "3", Important: true},
}

// Insert writes c as one block. nil means that it is durable. An error that is ErrInDoubt says that the block may or may not have been applied, or
// may still be running: Settle and ReadBack. ErrTransient says that it was certainly not applied and may be tried again. Any other error says that it
// was certainly not applied and will not be before somebody changes something.
//
// token is the deduplication token and the query id. Within the table's window the server applies each token once for each part that a block makes, whatever the rows.
func (s *Store) Insert(ctx context.Context, c *Columns, token string) error {
	if c.Rows() == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.insertTimeout)
	defer cancel()
	var sent atomic.Bool
	q := s.insertQuery(c, token, &sent)
	err := s.inserts.with(ctx, func(conn *conn) error { return conn.do(ctx, q) })
	if err != nil {
		return fmt.Errorf("insert %d rows as %s: %w", c.Rows(), token, classifyInsert(err, sent.Load()))
	}
	return nil
}

func (s *Store) insertQuery(c *Columns, token string, sent *atomic.Bool) ch.Query {
	input := c.input()
	input[0].Data = tripwire{ColInput: input[0].Data, sent: sent}
	settings := append([]ch.Setting{{Key: "insert_deduplication_token", Value: token, Important: true}}, insertSettings...)
	return ch.Query{Body: "INSERT INTO " + quote(s.table) + " (" + columnNames() + ") VALUES", QueryID: token, Input: input, Settings: settings}
}
