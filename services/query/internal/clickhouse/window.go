package clickhouse

import (
	"iter"
	"time"

	"example.com/auditlog/services/query/internal/audit"
)

// How a walk looks for its next page. A page that lies close to where it begins is found in a short stretch of time, which touches few parts of
// the table; without a lower bound a query reads a granule from every part. So short stretches are tried first, each many times as long as the
// one before, and after a few of them everything that is left. A sparse log pays with a few small queries for a dense one's speed.
const (
	firstWindow  = time.Hour
	windowGrowth = 16
	maxWindows   = 3
)

// windows are the stretches of time to look through for the page of q, newest first, without gaps or overlap.
func windows(q *audit.PageQuery, now time.Time) iter.Seq[span] {
	f := &q.Filter
	begin := now
	switch {
	case q.After != nil:
		begin = q.After.CreatedAt
	case !f.To.IsZero() && f.To.Before(now):
		begin = f.To
	}
	return func(yield func(span) bool) {
		top, width := f.To, firstWindow
		for range maxWindows {
			bottom := begin.Add(-width).UTC()
			if !bottom.After(f.From) {
				break
			}
			if !yield(span{from: bottom, to: top}) {
				return
			}
			top, width = bottom, width*windowGrowth
		}
		yield(span{from: f.From, to: top})
	}
}
