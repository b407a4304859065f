package clickhouse

import (
	"context"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/codes"
)

// killGrace is how long a query that nobody waits for may take to end after the store was told so; then its connection is cut.
const killGrace = 500 * time.Millisecond

// exportKillGrace is killGrace for an export, for the end of which nobody waits. Megabytes of rows are on their way when it is ended, and all are read
// before ClickHouse's last word. Cutting such a query off instead has aborted the embedded engine (libchdb 26.7): a connection that is reset right
// after the driver's Cancel packet leaves it with an exception that nothing catches.
const exportKillGrace = 10 * time.Second

// query runs a statement. done must be called when its rows have been closed.
//
// The end of ctx does not go to the driver: clickhouse-go 2.50 closes the channel of blocks when a context ends, and panics, and the process with it,
// if it is about to send a block just then (its pull request 1677). Instead ClickHouse is told to end the query, which then ends in order. Only a store
// that does not follow within its grace is cut off; one that hangs sends no blocks.
func (r *Reader) query(ctx context.Context, text string, args []any, options ...chgo.QueryOption) (rows driver.Rows, done func(), err error) {
	k, grace, id := kindOf(ctx), killGrace, queryIDPrefix+uuid.NewString()
	if k == kindExport {
		grace = exportKillGrace
	}
	ctx, span := r.span(ctx, id)
	running, cut := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(grace, cut)
		context.AfterFunc(running, func() { timer.Stop() })
		r.kill(id)
	})
	began := time.Now()
	done = func() {
		stop()
		cut()
		r.metrics.took(k, time.Since(began))
		endSpan(span, ctx.Err())
	}
	progress := chgo.WithProgress(func(p *chgo.Progress) { r.metrics.progress(k, p) })
	all := append([]chgo.QueryOption{chgo.WithQueryID(id), chgo.WithSpan(span.SpanContext()), chgo.WithSettings(r.settings(ctx, nil)), progress}, options...)
	rows, err = r.db.Query(chgo.Context(running, all...), text, args...)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		span.SetStatus(codes.Error, err.Error())
		done()
		return nil, nil, err
	}
	return rows, done, nil
}

// kill asks ClickHouse to end a query. A user may end its own.
func (r *Reader) kill(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), killGrace)
	defer cancel()
	_ = r.db.Exec(ctx, "KILL QUERY WHERE query_id = {id:String} ASYNC", chgo.Named("id", id)) // what does not end is cut off
}

// settings are those of a query for a page; s may be nil.
func (r *Reader) settings(ctx context.Context, s *statement) chgo.Settings {
	out := chgo.Settings{
		"log_comment":        comment(ctx),
		"readonly":           2,
		"max_execution_time": int(r.timeout/time.Second) + 1,
		"max_threads":        pageThreads,
		// Indexes are asked before reading: while reading, a value that is nowhere takes twice the time.
		"use_skip_indexes_on_data_read": 0,
		// The old planner needs half the time for queries of this size.
		"enable_analyzer": 0,
	}
	if s != nil && s.indexed {
		// With the new one, matching rows are found by the index and by key first, and completed after the limit.
		out["enable_analyzer"] = 1
		// Matching rows are scattered: reading ahead within a part is reading what is beyond the limit.
		out["read_in_order_use_buffering"] = 0
		// The list of a value's rows is the same for every page of a walk.
		out["use_text_index_postings_cache"] = 1
	}
	return out
}
