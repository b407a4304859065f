package predicate

import "slices"

// Needs is, by column, what a row must have to fulfil c: one of the values, or it does not. It is less than c says, never more: a column that is not a key may
// have any value, and rows that have the values may still not fulfil c.
func (c *Cond) Needs() map[Column][]string {
	switch c.kind {
	case kindEqual, kindIn:
		return map[Column][]string{c.col: c.values}
	case kindAnd:
		out := map[Column][]string{}
		for _, kid := range c.kids {
			for col, values := range kid.Needs() {
				out[col] = both(out[col], values)
			}
		}
		return out
	case kindOr:
		return needsOfAny(c.kids)
	}
	return nil
}

// both is what is left of two needs of one column. Where nothing is left, either will do: no row fulfils it.
func both(a, b []string) []string {
	if a == nil {
		return b
	}
	common := slices.DeleteFunc(slices.Clone(a), func(v string) bool { return !slices.Contains(b, v) })
	if len(common) == 0 {
		return b
	}
	return common
}

// needsOfAny are the columns that each of the terms needs, with the values of all of them.
func needsOfAny(terms []*Cond) map[Column][]string {
	out := terms[0].Needs()
	for _, term := range terms[1:] {
		needs := term.Needs()
		for col, values := range out {
			more, ok := needs[col]
			if !ok {
				delete(out, col)
				continue
			}
			all := append(slices.Clone(values), more...)
			slices.Sort(all)
			out[col] = slices.Compact(all)
		}
	}
	return out
}
