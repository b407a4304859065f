package clickhouse

import (
	"time"

	"example.com/auditlog/services/query/internal/audit"
)

// How a walk looks for its next page. A page that lies close to where it begins is found in a short stretch of time, which touches few parts of
// the table; without a lower bound a query reads a granule from every part. So a short stretch is tried first. Once something is found, the next stretch is
// as long as the rest of the page should take, and as much again; then comes everything that is left. When the same was asked before, the first stretch is as
// long as that page should take, and as much again.
//
// While nothing is found, the next stretch is many times as long, or everything. With a filter it is everything at once: either the value is rare, and the index
// says where its few rows are, or it is not, and a stretch of some days holds one.
const (
	firstWindow   = time.Hour
	filteredFirst = 64 * time.Hour
	windowGrowth  = 256
	maxEmpty      = 2
	maxWindows    = 2
	// longestWindow is longer than any log.
	longestWindow = 250 * 365 * 24 * time.Hour
)

// firstEvent is the earliest time of an event: with an earlier bound a stretch is everything.
var firstEvent = time.Unix(0, 0)

// search is the way through time of one page: stretches from the newest on, without gaps or overlap.
type search struct {
	from  time.Time // where it ends; zero for never
	begin time.Time // where the log is likely to begin for this page
	top   time.Time // where the next stretch begins: everything before is left to look at; zero for all
	width time.Duration
	tried int
	empty int // how many stretches without any event come before everything
	over  bool
}

// newSearch begins where the page does. indexed says that a filter or the scope is answered by the index; pace is what is known from before of how many seconds
// lie between the events looked for: 0 for nothing.
func newSearch(q *audit.PageQuery, indexed bool, now time.Time, pace float64) *search {
	begin := now
	switch {
	case q.After != nil:
		begin = q.After.CreatedAt
	case !q.Filter.To.IsZero() && q.Filter.To.Before(now):
		begin = q.Filter.To
	}
	s := &search{from: q.Filter.From, begin: begin.UTC(), top: q.Filter.To, width: firstWindow, empty: maxEmpty}
	if indexed {
		s.width, s.empty = filteredFirst, 1
	}
	if pace > 0 {
		s.width = width(2 * pace * float64(q.Limit+1))
	}
	return s
}

// next is the stretch to look at now that found events were found in those before, and missing are still wanted. It is false when nothing is left.
func (s *search) next(found, missing int) (w span, ok bool) {
	if s.over {
		return span{}, false
	}
	seen := s.begin
	if s.tried > 0 {
		seen = s.top
		s.width = nextWidth(s.width, s.begin.Sub(s.top), found, missing)
	}
	bottom := seen.Add(-s.width)
	s.over = s.tried == maxWindows || found == 0 && s.tried == s.empty || s.width == longestWindow || !bottom.After(s.from) || bottom.Before(firstEvent)
	if s.over {
		bottom = s.from
	}
	s.tried++
	w = span{from: bottom, to: s.top}
	s.top = bottom
	return w, true
}

// nextWidth is the length of the stretch after one of length last, when found events were found in seen.
func nextWidth(last, seen time.Duration, found, missing int) time.Duration {
	if found > 0 {
		return width(2 * seen.Seconds() * float64(missing) / float64(found))
	}
	return width(windowGrowth * last.Seconds())
}

// width is a length in seconds within bounds.
func width(seconds float64) time.Duration {
	return time.Duration(min(max(seconds, firstWindow.Seconds()), longestWindow.Seconds()) * float64(time.Second))
}
