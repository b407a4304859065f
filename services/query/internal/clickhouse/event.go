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

// Event is the newest event with this id that the scope permits, or audit.ErrNotFound. (One id with two times is two events; producers are asked
// not to do that.) The table has no index on ids: a version 7 id says when it was made, and is looked for there first.
func (r *Reader) Event(ctx context.Context, scope policy.Scope, id uuid.UUID) (audit.Event, error) {
	if scope.Empty() {
		return audit.Event{}, audit.ErrNotFound
	}
	var found *audit.Event
	err := r.guard(withKind(ctx, kindEvent), func(ctx context.Context) error {
		for _, w := range idWindows(id) {
			s := newStatement(scope, r.partition(scope.Tenant()))
			s.is(id)
			s.during(w)
			if _, err := r.each(ctx, s, 1, func(e *audit.Event) { c := *e; found = &c }); err != nil {
				return fmt.Errorf("look for event %s: %w", id, err)
			}
			if found != nil {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return audit.Event{}, err
	}
	if found == nil || !r.permitted(scope, found) {
		return audit.Event{}, audit.ErrNotFound
	}
	return *found, nil
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
