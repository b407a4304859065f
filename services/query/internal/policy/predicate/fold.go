package predicate

import (
	"slices"
	"time"
)

// Known is what is known of the rows in question.
type Known struct {
	// Values are, by column, the only values that occur. A column that is not a key may hold anything.
	Values map[Column][]string
	// From and To bound created_at: From <= created_at < To, each open when zero.
	From, To time.Time
}

// Fold is c as it stands for the rows described by k: comparisons that k decides become constants. The result selects the same of those
// rows as c does; it may say nothing sensible about others.
func (c *Cond) Fold(k Known) *Cond {
	switch c.kind {
	case kindAnd, kindOr:
		kids := make([]*Cond, len(c.kids))
		for i, kid := range c.kids {
			kids[i] = kid.Fold(k)
		}
		return join(c.kind, kids)
	case kindNot:
		return Not(c.kids[0].Fold(k))
	case kindBefore:
		return c.foldBefore(k)
	case kindEqual, kindIn, kindLike:
		if values, ok := k.Values[c.col]; ok && len(values) > 0 {
			return c.foldText(values)
		}
	}
	return c
}

func (c *Cond) foldBefore(k Known) *Cond {
	switch {
	case !k.From.IsZero() && k.From.UnixMicro() >= c.millis*1000:
		return never
	case !k.To.IsZero() && k.To.UnixMicro() <= c.millis*1000:
		return always
	}
	return c
}

// foldText decides a comparison when all values agree on it.
func (c *Cond) foldText(values []string) *Cond {
	holds := func(v string) bool {
		if c.kind == kindLike {
			return c.pattern.Match(v)
		}
		return slices.Contains(c.values, v)
	}
	first := holds(values[0])
	if slices.ContainsFunc(values[1:], func(v string) bool { return holds(v) != first }) {
		return c
	}
	return Const(first)
}

// Columns reports which of cols c speaks of.
func (c *Cond) Columns(cols ...Column) []Column {
	var found []Column
	for _, col := range cols {
		if c.uses(col) {
			found = append(found, col)
		}
	}
	return found
}

func (c *Cond) uses(col Column) bool {
	return c.col == col || c.other == col || slices.ContainsFunc(c.kids, func(k *Cond) bool { return k.uses(col) })
}
