package clickhouse

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
)

// spareRows are asked for beyond what a page needs, so that a copy of an event does not cost another query. With a rare filter every spare row is
// as dear as a row of the page.
const spareRows = 2

// Page reads the events after q.After that the scope permits, newest first. Errors are audit.ErrUnavailable, audit.ErrTimeout, the end of ctx,
// or a fault of this program.
func (r *Reader) Page(ctx context.Context, scope policy.Scope, q audit.PageQuery) (audit.Page, error) {
	if scope.Empty() || q.Filter.Nothing() {
		return audit.Page{}, nil
	}
	if scope.Tenant() != q.Tenant {
		return audit.Page{}, fmt.Errorf("read a page: the scope is of tenant %s, the query of %s", scope.Tenant(), q.Tenant)
	}
	p := &pager{reader: r, scope: scope, query: &q, last: q.After}
	if err := r.guard(withKind(ctx, kindPage), p.read); err != nil {
		return audit.Page{}, err
	}
	return audit.Page{Events: p.events, More: p.more}, nil
}

// pager collects one page.
type pager struct {
	reader *Reader
	scope  policy.Scope
	query  *audit.PageQuery

	last   *audit.Position // of the last row read, shown or not
	events []audit.Event
	more   bool
}

// read goes from window to window until the page is full and something is known to follow, or nothing is left.
func (p *pager) read(ctx context.Context) error {
	for w := range windows(p.query, time.Now()) {
		for {
			asked := p.query.Limit + 1 - len(p.events) + spareRows
			got, err := p.fetch(ctx, w, asked)
			if err != nil {
				return err
			}
			if p.more {
				return nil
			}
			if got < asked {
				break // the window holds no more
			}
		}
	}
	return nil
}

// fetch reads up to limit rows of a window from where the last fetch ended.
func (p *pager) fetch(ctx context.Context, w span, limit int) (rows int, err error) {
	s := newStatement(p.scope, p.reader.partition(p.query.Tenant))
	s.filter(&p.query.Filter)
	s.during(w)
	s.after(p.last)
	return p.reader.each(ctx, s, limit, p.add)
}

// add takes the next row: a copy of the row before is dropped, as the first one counts, and so is a row that the policies turn out not to permit.
func (p *pager) add(e *audit.Event) {
	at := e.Position()
	if p.last != nil && at.ID == p.last.ID && at.CreatedAt.Equal(p.last.CreatedAt) {
		return
	}
	p.last = &at
	if p.more {
		return
	}
	if !p.reader.permitted(p.scope, e) {
		return
	}
	if len(p.events) == p.query.Limit {
		p.more = true
		return
	}
	p.events = append(p.events, *e)
}

// permitted decides a row again, with the policies themselves. That it drops one means that SQL and policies disagree: a fault of this program.
func (r *Reader) permitted(scope policy.Scope, e *audit.Event) bool {
	if scope.Permits(e) {
		return true
	}
	r.log.Error("a row that the row filter selected is not permitted by the policies: it is not shown",
		slog.String("tenant", scope.Tenant().String()), slog.String("event", e.ID.String()), slog.Uint64("stream_seq", e.Seq))
	return false
}
