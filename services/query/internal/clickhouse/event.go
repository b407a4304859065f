package clickhouse

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
)

// idSlack is how far an event's created_at may be from the time in its version 7 id for the short way to find it.
const idSlack = time.Hour

// newestCopyFirst orders the few rows that have one id.
const newestCopyFirst = "created_at DESC, stream_seq"

// Event is the newest event with this id that the scope permits, or audit.ErrNotFound. (One id with two times is two events; producers are asked
// not to do that.) The index event_ids finds it; a version 7 id says when it was made, and is looked for there first, in fewer parts.
func (r *Reader) Event(ctx context.Context, scope policy.Scope, id uuid.UUID) (audit.Event, error) {
	if scope.Empty() {
		return audit.Event{}, audit.ErrNotFound
	}
	var found *audit.Event
	err := r.guard(withKind(ctx, kindEvent), func(ctx context.Context) (err error) {
		for _, w := range idWindows(id) {
			if found, err = r.newest(ctx, scope, id, w); err != nil || found != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return audit.Event{}, fmt.Errorf("look for event %s: %w", id, err)
	}
	if found == nil || !r.permitted(scope, found) {
		return audit.Event{}, audit.ErrNotFound
	}
	return *found, nil
}

// newest is the newest event with this id in a stretch of time, at its first copy, or nil.
func (r *Reader) newest(ctx context.Context, scope policy.Scope, id uuid.UUID, w span) (*audit.Event, error) {
	var before *audit.Position
	for {
		s := newStatement(scope, r.partition(scope.Tenant()))
		s.order = newestCopyFirst
		s.is(id)
		s.during(w)
		s.after(before)
		var rows []audit.Event
		if _, err := r.each(ctx, s, 1, func(e *audit.Event) { rows = append(rows, *e) }); err != nil || len(rows) == 0 {
			return nil, err
		}
		later, err := r.laterMatches(ctx, scope, &audit.Filter{}, rows)
		if err != nil {
			return nil, err
		}
		if !later[0] {
			return &rows[0], nil
		}
		at := rows[0].Position()
		before = &at
	}
}

// idWindows are the stretches of time to look for an id in: around the time it was made at, if it says so, then everywhere.
func idWindows(id uuid.UUID) []span {
	everywhere := span{}
	if id.Version() != 7 {
		return []span{everywhere}
	}
	sec, nsec := id.Time().UnixTime()
	made := time.Unix(sec, nsec).UTC()
	if made.Before(time.Unix(0, 0)) || made.Year() > 2200 {
		return []span{everywhere}
	}
	return []span{{from: made.Add(-idSlack), to: made.Add(idSlack)}, everywhere}
}
