package policy

import "example.com/auditlog/services/query/internal/policy/predicate"

// rail is the translation of a Cedar expression of type Bool. Such an expression is true, false or an error, and an error is not SQL's
// NULL: `error || true` is an error in Cedar, while NULL OR TRUE is true. So two conditions are carried along, one for the rows for which
// the expression is true and one for those for which it is false; rows in neither are those for which it is an error, or for which it has
// no translation. Both conditions only ever grow with their parts, so putting "no row" for what cannot be translated can hide rows and
// never show one too many.
type rail struct {
	t, n  *predicate.Cond
	total bool // every row is in exactly one of the two
}

// none is the rail of an error, and of what has no translation.
var none = rail{t: predicate.Const(false), n: predicate.Const(false)}

// constRail is the rail of true or false.
func constRail(v bool) rail {
	return rail{t: predicate.Const(v), n: predicate.Const(!v), total: true}
}

// totalRail is the rail of an expression that cannot fail: false wherever it is not true.
func totalRail(c *predicate.Cond) rail {
	return rail{t: c, n: predicate.Not(c), total: true}
}

// leaf is the rail of a comparison that fails where one of the columns is absent.
func leaf(c *predicate.Cond, cols ...predicate.Column) rail {
	guard := predicate.Const(true)
	for _, col := range cols {
		guard = predicate.And(guard, predicate.Present(col))
	}
	if guard.IsTrue() {
		return totalRail(c)
	}
	return rail{t: predicate.And(guard, c), n: predicate.And(guard, predicate.Not(c))}
}

// settled marks a rail as total when it came out constant.
func (r rail) settled() rail {
	if r.t.IsTrue() || r.n.IsTrue() {
		return constRail(r.t.IsTrue())
	}
	return r
}

// size is how much SQL the rail is good for.
func (r rail) size() int {
	if r.total {
		return r.t.Size()
	}
	return r.t.Size() + r.n.Size()
}

func (r rail) not() rail { return rail{t: r.n, n: r.t, total: r.total} }

// and is `a && b`: b is not evaluated where a is false, and an error of a is an error of the whole.
func (r rail) and(b rail) rail {
	if r.total && b.total {
		return totalRail(predicate.And(r.t, b.t))
	}
	second := b.n
	if !r.total {
		second = predicate.And(r.t, b.n)
	}
	return rail{t: predicate.And(r.t, b.t), n: predicate.Or(r.n, second)}.settled()
}

// or is `a || b`, the mirror image.
func (r rail) or(b rail) rail {
	if r.total && b.total {
		return totalRail(predicate.Or(r.t, b.t))
	}
	second := b.t
	if !r.total {
		second = predicate.And(r.n, b.t)
	}
	return rail{t: predicate.Or(r.t, second), n: predicate.And(r.n, b.n)}.settled()
}

// choose is `if c then a else b`.
func (r rail) choose(a, b rail) rail {
	switch {
	case r.t.IsTrue():
		return a
	case r.n.IsTrue():
		return b
	}
	t := predicate.Or(predicate.And(r.t, a.t), predicate.And(r.n, b.t))
	if r.total && a.total && b.total {
		return totalRail(t)
	}
	return rail{t: t, n: predicate.Or(predicate.And(r.t, a.n), predicate.And(r.n, b.n))}.settled()
}
