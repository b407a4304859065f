package policy

import (
	"github.com/cedar-policy/cedar-go"
	xast "github.com/cedar-policy/cedar-go/x/exp/ast"

	"example.com/auditlog/services/query/internal/policy/predicate"
)

// order operators; the other two are these with the sides exchanged.
type orderOp uint8

const (
	opLess orderOp = iota
	opLessEqual
)

// maxMoment bounds moments and durations in milliseconds, so that their sums cannot overflow: some 31,000 years.
const maxMoment = 1e15

// A Cedar datetime has milliseconds and created_at has microseconds, floored when the row becomes an entity. So `created_at <= d` is
// "created before d plus one millisecond", and every comparison is one with a whole millisecond.

// order translates `a < b` and `a <= b`.
func (tr *translator) order(op orderOp, left, right xast.IsNode) rail {
	a, b := tr.operand(left), tr.operand(right)
	switch {
	case a.kind == opError || b.kind == opError:
		return none
	case a.kind == opGap || b.kind == opGap:
		return tr.gap("an order comparison with something that is no attribute of `resource`",
			"compare resource.created_at with a known datetime, such as context.now.offset(duration(\"-90d\"))")
	case a.isRow() && b.isRow():
		return tr.gap("an order comparison between two attributes of `resource`", "compare each with a known value")
	case a.isRow():
		return tr.orderRow(op, a, b.value, false)
	}
	return tr.orderRow(op, b, a.value, true)
}

// orderRow translates `row op v`, or `v op row` when mirrored.
func (tr *translator) orderRow(op orderOp, row operand, v cedar.Value, mirrored bool) rail {
	if row.kind != opTime && row.kind != opSince {
		return none // an error in Cedar
	}
	if v == nil {
		return placeholder
	}
	if row.kind == opTime {
		d, ok := v.(cedar.Datetime)
		if !ok {
			return none
		}
		return orderMillis(op, d.Milliseconds(), mirrored)
	}
	bound, ok := tr.sinceBound(row, v)
	if !ok {
		return none
	}
	return orderMillis(op, bound, mirrored != row.reversed)
}

// orderMillis is `created_at op ms`, or `ms op created_at` when mirrored.
func orderMillis(op orderOp, ms int64, mirrored bool) rail {
	switch {
	case !mirrored && op == opLess: // created < ms
		return totalRail(predicate.Before(ms))
	case !mirrored: // created <= ms
		return totalRail(predicate.Before(next(ms)))
	case op == opLess: // ms < created
		return totalRail(predicate.Not(predicate.Before(next(ms))))
	default: // ms <= created
		return totalRail(predicate.Not(predicate.Before(ms)))
	}
}

func equalMillis(ms int64) *predicate.Cond {
	return predicate.And(predicate.Not(predicate.Before(ms)), predicate.Before(next(ms)))
}

// next is the millisecond after ms; beyond the years a row can have it makes no difference.
func next(ms int64) int64 {
	if ms > maxMoment {
		return ms
	}
	return ms + 1
}

// sinceEqual translates `created_at.durationSince(moment) == v` and its mirror image.
func (tr *translator) sinceEqual(row operand, v cedar.Value) rail {
	if v == nil || (tr.lint && row.moment == nil) {
		return placeholder
	}
	if _, ok := v.(cedar.Duration); !ok {
		return constRail(false)
	}
	bound, ok := tr.sinceBound(row, v)
	if !ok {
		return none
	}
	return totalRail(equalMillis(bound))
}

// sinceBound is the created_at at which the duration is exactly v: moment + v, or moment - v when reversed.
func (tr *translator) sinceBound(row operand, v cedar.Value) (int64, bool) {
	d, ok := v.(cedar.Duration)
	if !ok {
		return 0, false // an error in Cedar
	}
	if row.moment == nil { // linting
		return 0, true
	}
	m, ok := row.moment.(cedar.Datetime)
	if !ok {
		return 0, false
	}
	ms, dur := m.Milliseconds(), d.ToMilliseconds()
	if ms > maxMoment || ms < -maxMoment || dur > maxMoment || dur < -maxMoment {
		tr.gap("a moment or duration beyond 30,000 years", "use a nearer one")
		return 0, false
	}
	if row.reversed {
		dur = -dur
	}
	return ms + dur, true
}
