package clickhouse

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"time"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
)

// spareRows are asked for beyond what a page needs: the last row may be one copy of several, and one copy more does not cost another query. With a rare
// filter every spare row is as dear as a row of the page.
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
	if p.missing() <= 0 {
		return audit.Page{Events: p.events[:q.Limit], More: true}, nil
	}
	return audit.Page{Events: p.events}, nil
}

// pager collects one page.
type pager struct {
	reader *Reader
	scope  policy.Scope
	query  *audit.PageQuery

	last    *audit.Position // of the last event read, shown or not
	found   int             // events read, shown or not
	events  []audit.Event   // one more than the page when it is full
	checked int             // how many of events are known to be first copies
}

// missing is how many events it takes to fill the page and to know that one follows.
func (p *pager) missing() int { return p.query.Limit + 1 - len(p.events) }

// read goes from window to window until the page is full and something is known to follow, or nothing is left.
func (p *pager) read(ctx context.Context) error {
	asked := p.statement()
	question := p.reader.paces.question(asked)
	s := newSearch(p.query, asked.indexed, time.Now(), p.reader.paces.of(question))
	for p.missing() > 0 {
		w, ok := s.next(p.found, p.missing())
		if !ok {
			if s.from.IsZero() {
				p.reader.paces.note(question, math.Inf(1))
			}
			return p.check(ctx)
		}
		if err := p.through(ctx, w); err != nil {
			return err
		}
	}
	p.reader.paces.note(question, s.begin.Sub(p.last.CreatedAt).Seconds()/float64(p.found))
	return nil
}

// through reads a window to its end, or until the page is full.
func (p *pager) through(ctx context.Context, w span) error {
	for asked := p.missing() + spareRows; p.missing() > 0; {
		rows, err := p.fetch(ctx, w, asked)
		if err != nil {
			return err
		}
		whole := len(rows) < asked
		if !whole {
			rows = withoutLast(rows) // its other copies may be yet to come
		}
		if len(rows) == 0 && !whole {
			asked *= 2 // all are of one event
			continue
		}
		if !p.add(fold(rows)) {
			whole = false // should some of the page be taken out again, the rest of the window is still to be looked at
		}
		if p.missing() <= 0 {
			err = p.check(ctx)
		}
		if err != nil || whole && p.missing() > 0 {
			return err
		}
		asked = p.missing() + spareRows
	}
	return nil
}

// statement selects the rows of the log that match.
func (p *pager) statement() *statement {
	s := newStatement(p.scope, p.reader.partition(p.query.Tenant))
	s.filter(&p.query.Filter, p.scope)
	return s
}

// fetch reads up to limit rows of a window from where the last fetch ended.
func (p *pager) fetch(ctx context.Context, w span, limit int) (rows []audit.Event, err error) {
	s := p.statement()
	s.during(w)
	s.after(p.last)
	_, err = p.reader.each(ctx, s, limit, func(e *audit.Event) { rows = append(rows, *e) })
	return rows, err
}

// add takes events, as many as are missing, without those that the policies turn out not to permit. It is false when some are left.
func (p *pager) add(events []audit.Event) bool {
	for i := range events {
		if p.missing() == 0 {
			return false
		}
		e := &events[i]
		at := e.Position()
		p.last = &at
		p.found++
		if p.reader.permitted(p.scope, e) {
			p.events = append(p.events, *e)
		}
	}
	return true
}

// check takes out the events that match only as a later copy.
func (p *pager) check(ctx context.Context) error {
	later, err := p.reader.laterMatches(ctx, p.scope, &p.query.Filter, p.events[p.checked:])
	if err != nil {
		return err
	}
	first := p.events[:p.checked]
	for i, e := range p.events[p.checked:] {
		if !later[i] {
			first = append(first, e)
		}
	}
	p.events, p.checked = first, len(first)
	return nil
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
