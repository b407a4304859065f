package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
)

// How a feed looks for its next page. The table is in the order of created_at; what helps to find sequences are the indexes seq_range and seq_blocks. So
// short ranges of sequences are tried first, each many times as long as the one before: for a reader who keeps up the first is all there is.
const (
	firstRange  = 1 << 10
	rangeGrowth = 8
	// seqBlock is how many sequences have one entry in seq_blocks: a granule into which some late events strayed has an entry for each, where the lowest
	// and the highest sequence alone would say that it may hold anything between.
	seqBlock = 1024
	// narrowRange is the longest range whose rows are read whole, and looked for in seq_blocks. In a longer one the sequences alone are read first, to
	// learn where the page ends: a tenant for which that takes so long a range has few rows.
	narrowRange = 64 * seqBlock
	// feedShare is the part of the time budget, one in so many, after which a page ends where it stands, full or not.
	feedShare = 4

	ingestOrder = "stream_seq"
)

// Feed reads the events after q.After, up to q.Through, that the scope permits, in the order they were taken in, each at its first copy: a copy of
// an event that the table had before is none. Errors are those of Page.
func (r *Reader) Feed(ctx context.Context, scope policy.Scope, q audit.FeedQuery) (audit.FeedPage, error) {
	if scope.Empty() || q.Filter.Nothing() || q.Through <= q.After {
		return audit.FeedPage{Through: max(q.After, q.Through)}, nil
	}
	if scope.Tenant() != q.Tenant {
		return audit.FeedPage{}, fmt.Errorf("read a feed: the scope is of tenant %s, the query of %s", scope.Tenant(), q.Tenant)
	}
	p := &feeder{reader: r, scope: scope, query: &q, at: q.After}
	if err := r.guard(withKind(ctx, kindFeed), p.read); err != nil {
		return audit.FeedPage{}, err
	}
	return audit.FeedPage{Events: p.events, Through: p.at, More: p.at < q.Through}, nil
}

// feeder collects one page of a feed.
type feeder struct {
	reader *Reader
	scope  policy.Scope
	query  *audit.FeedQuery

	at     uint64 // everything up to here has been looked at
	events []audit.Event
}

// read goes from range to range until the page is full, everything has been looked at, or the time is up.
func (p *feeder) read(ctx context.Context) error {
	began := time.Now()
	for width := uint64(max(firstRange, 4*p.query.Limit)); p.at < p.query.Through; width *= rangeGrowth {
		to := p.query.Through
		if to-p.at > width {
			to = p.at + width
		}
		if err := p.through(ctx, to); err != nil {
			return err
		}
		if len(p.events) == p.query.Limit || time.Since(began) > p.reader.timeout/feedShare {
			return nil
		}
	}
	return nil
}

// through adds the events up to a sequence, or as many as the page has room for.
func (p *feeder) through(ctx context.Context, to uint64) error {
	for p.at < to && len(p.events) < p.query.Limit {
		room := p.query.Limit - len(p.events)
		end := to
		if end-p.at > narrowRange {
			var err error
			if end, err = p.end(ctx, to, room+spareRows); err != nil {
				return err
			}
		}
		rows, whole, err := p.rows(ctx, end, room+spareRows)
		if err != nil {
			return err
		}
		copies, err := p.reader.laterCopies(ctx, p.query.Tenant, rows)
		if err != nil {
			return err
		}
		if p.add(rows, copies) && whole {
			p.at = end
		}
	}
	return nil
}

// add takes rows in order, without the copies among them, and moves on with each. It is false when the page was full before a row was left to show.
func (p *feeder) add(rows []audit.Event, copies []bool) bool {
	for i := range rows {
		e := &rows[i]
		if !copies[i] && (i == 0 || e.Seq != rows[i-1].Seq) {
			if len(p.events) == p.query.Limit {
				return false
			}
			if p.reader.permitted(p.scope, e) {
				p.events = append(p.events, *e)
			}
		}
		p.at = e.Seq
	}
	return true
}

// statement selects the rows of the feed in (p.at, to].
func (p *feeder) statement(to uint64) *statement {
	s := newStatement(p.scope, p.reader.partition(p.query.Tenant))
	s.order = ingestOrder
	s.filter(&p.query.Filter, p.scope)
	s.during(span{from: p.query.Filter.From, to: p.query.Filter.To})
	s.where("stream_seq > {seq_after:UInt64}", "seq_after", strconv.FormatUint(p.at, 10))
	s.where("stream_seq <= {seq_through:UInt64}", "seq_through", strconv.FormatUint(to, 10))
	if to-p.at <= narrowRange {
		// XOR with 0 changes nothing but what the index seq_range makes of it: it would look through the set for each granule, 3 µs of 77,000 times.
		s.where("bitXor(intDiv(stream_seq, 1024), 0) IN {seq_blocks:Array(UInt64)}", "seq_blocks", seqBlocks(p.at+1, to))
	}
	return s
}

// seqBlocks are the numbers of the blocks of sequences from first to last.
func seqBlocks(first, last uint64) string {
	var blocks []string
	for b := first / seqBlock; b <= last/seqBlock; b++ {
		blocks = append(blocks, strconv.FormatUint(b, 10))
	}
	return "[" + strings.Join(blocks, ",") + "]"
}

// rows reads up to limit rows of (p.at, to]. whole says that there are no more.
func (p *feeder) rows(ctx context.Context, to uint64, limit int) (rows []audit.Event, whole bool, err error) {
	read, err := p.reader.each(ctx, p.statement(to), limit, func(e *audit.Event) { rows = append(rows, *e) })
	if err != nil {
		return nil, false, fmt.Errorf("read a feed after %d: %w", p.at, err)
	}
	return rows, read < limit, nil
}

// end is the sequence of the limit-th row of (p.at, to], or to when there are fewer. It reads no wide column.
func (p *feeder) end(ctx context.Context, to uint64, limit int) (uint64, error) {
	s := p.statement(to)
	s.args["limit"] = strconv.Itoa(limit)
	text := "SELECT count(), max(stream_seq) FROM (\nSELECT stream_seq\nFROM event_log\nWHERE " + strings.Join(s.terms, "\n  AND ") +
		"\nORDER BY stream_seq\nLIMIT {limit:UInt32})"
	var found, last uint64
	rows, done, err := p.reader.query(ctx, text, s.named(), chgo.WithSettings(p.reader.settings(ctx, s)))
	if err != nil {
		return 0, fmt.Errorf("look for the end of a feed's page: %w", err)
	}
	defer done()
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := rows.Scan(&found, &last); err != nil {
			return 0, fmt.Errorf("%w: %w", errRow, err)
		}
	}
	if err := errors.Join(rows.Err(), ctx.Err()); err != nil {
		return 0, fmt.Errorf("look for the end of a feed's page: %w", err)
	}
	if int(found) < limit { //nolint:gosec // no more than limit
		return to, nil
	}
	return last, nil
}
