// Package predicate is a condition on rows of the event log: built from and, or, not and a few comparisons of one column, rendered as a
// parameterised ClickHouse expression, interpreted in Go, and folded with what is known about the rows. It knows nothing of policies.
//
// Every condition is two-valued for every row: a comparison of a column that may be absent is written And(Present(c), …), so that SQL's
// third value never decides anything.
package predicate

import (
	"slices"
	"strconv"
	"strings"
)

// Column is a column of audit.event_log.
type Column string

// Columns a condition may speak of.
const (
	TenantID     Column = "tenant_id"
	ID           Column = "id"
	ActorID      Column = "actor_id"
	ActorType    Column = "actor_type"
	Action       Column = "action"
	ResourceType Column = "resource_type"
	ResourceID   Column = "resource_id"
	Reasoning    Column = "reasoning"
	CreatedAt    Column = "created_at"
)

// sqlType is the type of a column's parameters.
func (c Column) sqlType() string {
	if c == TenantID || c == ID {
		return "UUID"
	}
	return "String"
}

type kind uint8

const (
	kindConst   kind = iota // value
	kindAnd                 // kids
	kindOr                  // kids
	kindNot                 // kids[0]
	kindEqual               // col = values[0]
	kindIn                  // col is one of values, sorted, at least two
	kindLike                // col matches pattern
	kindSame                // col = other
	kindPresent             // col is not null
	kindBefore              // created_at is before millis
)

// Cond is an immutable condition. The constructors simplify: constants vanish, repeated terms are kept once.
type Cond struct {
	kind    kind
	value   bool
	col     Column
	other   Column
	values  []string
	pattern Pattern
	millis  int64
	kids    []*Cond
	size    int
}

var (
	always = &Cond{kind: kindConst, value: true, size: 1}
	never  = &Cond{kind: kindConst, value: false, size: 1}
)

// Const is the condition that every row fulfils, or none.
func Const(v bool) *Cond {
	if v {
		return always
	}
	return never
}

// IsTrue says whether every row fulfils c, as far as the constructors could see.
func (c *Cond) IsTrue() bool { return c.kind == kindConst && c.value }

// IsFalse says whether no row fulfils c, as far as the constructors could see.
func (c *Cond) IsFalse() bool { return c.kind == kindConst && !c.value }

// Size is the number of nodes and values that SQL will write out. It saturates well below overflow.
func (c *Cond) Size() int { return c.size }

const maxSize = 1 << 30

func addSize(a, b int) int { return min(a+b, maxSize) }

// Equal holds for rows whose column has exactly this value. Columns of ids take the canonical lower-case text of a UUID.
func Equal(col Column, value string) *Cond {
	return &Cond{kind: kindEqual, col: col, values: []string{value}, size: 1}
}

// In holds for rows whose column has one of the values.
func In(col Column, values ...string) *Cond {
	values = slices.Clone(values)
	slices.Sort(values)
	values = slices.Compact(values)
	switch len(values) {
	case 0:
		return never
	case 1:
		return Equal(col, values[0])
	}
	return &Cond{kind: kindIn, col: col, values: values, size: len(values)}
}

// Like holds for rows whose column matches the pattern, byte for byte.
func Like(col Column, p Pattern) *Cond {
	if text, ok := p.exact(); ok {
		return Equal(col, text)
	}
	if p.any() {
		return always
	}
	return &Cond{kind: kindLike, col: col, pattern: p, size: 1}
}

// Same holds for rows in which both columns have the same text.
func Same(a, b Column) *Cond {
	if a == b {
		return always
	}
	if b < a {
		a, b = b, a
	}
	return &Cond{kind: kindSame, col: a, other: b, size: 1}
}

// Present holds for rows in which the column is not null. Only Reasoning may be null.
func Present(col Column) *Cond {
	if col != Reasoning {
		return always
	}
	return &Cond{kind: kindPresent, col: col, size: 1}
}

// Years that DateTime64(6) can hold; beyond them a comparison is a constant.
const (
	minMillis = -2208988800000 // 1900-01-01
	maxMillis = 10413792000000 // 2300-01-01
)

// Before holds for rows created before this instant, in milliseconds since 1970.
func Before(millis int64) *Cond {
	switch {
	case millis <= minMillis:
		return never
	case millis >= maxMillis:
		return always
	}
	return &Cond{kind: kindBefore, col: CreatedAt, millis: millis, size: 1}
}

// Not holds for the rows that c excludes.
func Not(c *Cond) *Cond {
	switch c.kind {
	case kindConst:
		return Const(!c.value)
	case kindNot:
		return c.kids[0]
	}
	return &Cond{kind: kindNot, kids: []*Cond{c}, size: addSize(c.size, 1)}
}

// And holds for the rows that fulfil all of cs.
func And(cs ...*Cond) *Cond { return join(kindAnd, cs) }

// Or holds for the rows that fulfil any of cs.
func Or(cs ...*Cond) *Cond { return join(kindOr, cs) }

// join flattens, drops the neutral constant, stops at the absorbing one and keeps each term once. A term and its negation absorb, too.
func join(k kind, cs []*Cond) *Cond {
	neutral, absorbing := always, never
	if k == kindOr {
		neutral, absorbing = never, always
	}
	kids := make([]*Cond, 0, len(cs))
	for _, c := range cs {
		switch {
		case c == nil || c == neutral:
		case c == absorbing:
			return absorbing
		case c.kind == k:
			kids = append(kids, c.kids...)
		default:
			kids = append(kids, c)
		}
	}
	kids, clash := distinct(kids)
	if clash {
		return absorbing
	}
	switch len(kids) {
	case 0:
		return neutral
	case 1:
		return kids[0]
	}
	size := 0
	for _, c := range kids {
		size = addSize(size, c.size)
	}
	return &Cond{kind: k, kids: kids, size: addSize(size, 1)}
}

// maxKeySize bounds the work of comparing terms: larger ones are kept as they are.
const maxKeySize = 64

// distinct keeps the first of equal terms, and reports whether a term stands beside its negation.
func distinct(kids []*Cond) (kept []*Cond, clash bool) {
	if len(kids) < 2 {
		return kids, false
	}
	seen := make(map[string]bool, len(kids)) // key of the term without its Not: was it negated
	kept = kids[:0:0]
	for _, c := range kids {
		if c.size > maxKeySize {
			kept = append(kept, c)
			continue
		}
		inner, negated := c, false
		if c.kind == kindNot {
			inner, negated = c.kids[0], true
		}
		key := inner.key()
		was, ok := seen[key]
		if ok && was != negated {
			return nil, true
		}
		if !ok {
			seen[key] = negated
			kept = append(kept, c)
		}
	}
	return kept, false
}

// key identifies a condition by its structure.
func (c *Cond) key() string {
	var b strings.Builder
	c.writeKey(&b)
	return b.String()
}

func (c *Cond) writeKey(b *strings.Builder) {
	b.WriteByte('a' + byte(c.kind))
	b.WriteString(string(c.col))
	b.WriteByte(' ')
	b.WriteString(string(c.other))
	switch c.kind {
	case kindConst:
		b.WriteString(strconv.FormatBool(c.value))
	case kindBefore:
		b.WriteString(strconv.FormatInt(c.millis, 10))
	case kindLike:
		c.pattern.writeKey(b)
	}
	for _, v := range c.values {
		b.WriteString(strconv.Quote(v))
	}
	for _, k := range c.kids {
		b.WriteByte('(')
		k.writeKey(b)
		b.WriteByte(')')
	}
}
