package predicate

import (
	"strconv"
	"strings"
)

// SQL writes c as a ClickHouse expression with query parameters named prefix0, prefix1, …, each of them a string as clickhouse.Named takes it.
// Equal values share one parameter. No value ever becomes part of the text.
func SQL(c *Cond, prefix string) (text string, args map[string]any) {
	w := &writer{prefix: prefix, args: map[string]any{}, names: map[string]string{}}
	w.write(c, false)
	return w.b.String(), w.args
}

type writer struct {
	b      strings.Builder
	prefix string
	args   map[string]any
	names  map[string]string
}

// param writes a reference to a parameter of this type and value.
func (w *writer) param(sqlType, value string) {
	key := sqlType + ":" + value
	name, ok := w.names[key]
	if !ok {
		name = w.prefix + strconv.Itoa(len(w.names))
		w.names[key] = name
		w.args[name] = value
	}
	w.b.WriteString("{" + name + ":" + sqlType + "}")
}

// write writes c, in brackets where the surroundings need them.
func (w *writer) write(c *Cond, nested bool) {
	switch c.kind {
	case kindConst:
		w.b.WriteString(strconv.FormatBool(c.value))
	case kindAnd, kindOr:
		w.list(c, nested)
	case kindNot:
		w.not(c.kids[0])
	case kindEqual:
		w.b.WriteString(string(c.col) + " = ")
		w.param(c.col.sqlType(), c.values[0])
	case kindIn:
		w.in(c, " IN (")
	case kindLike:
		w.like(c)
	case kindSame:
		w.b.WriteString(string(c.col) + " = " + string(c.other))
	case kindPresent:
		w.b.WriteString(string(c.col) + " IS NOT NULL")
	case kindBefore:
		w.before(c, " < ")
	}
}

func (w *writer) list(c *Cond, nested bool) {
	word := " AND "
	if c.kind == kindOr {
		word = " OR "
	}
	if nested {
		w.b.WriteByte('(')
	}
	for i, kid := range c.kids {
		if i > 0 {
			w.b.WriteString(word)
		}
		w.write(kid, true)
	}
	if nested {
		w.b.WriteByte(')')
	}
}

// not writes the negation with the operator a reader would choose.
func (w *writer) not(c *Cond) {
	switch c.kind {
	case kindEqual:
		w.b.WriteString(string(c.col) + " != ")
		w.param(c.col.sqlType(), c.values[0])
	case kindIn:
		w.in(c, " NOT IN (")
	case kindSame:
		w.b.WriteString(string(c.col) + " != " + string(c.other))
	case kindPresent:
		w.b.WriteString(string(c.col) + " IS NULL")
	case kindBefore:
		w.before(c, " >= ")
	default:
		w.b.WriteString("NOT ")
		w.write(c, true)
	}
}

func (w *writer) in(c *Cond, word string) {
	w.b.WriteString(string(c.col) + word)
	for i, v := range c.values {
		if i > 0 {
			w.b.WriteString(", ")
		}
		w.param(c.col.sqlType(), v)
	}
	w.b.WriteByte(')')
}

func (w *writer) before(c *Cond, word string) {
	w.b.WriteString(string(c.col) + word + "fromUnixTimestamp64Milli(")
	w.param("Int64", strconv.FormatInt(c.millis, 10))
	w.b.WriteString(", 'UTC')")
}

// like picks the cheapest function that means the same.
func (w *writer) like(c *Cond) {
	p, col := c.pattern, string(c.col)
	if len(p.Pieces) != 1 {
		w.b.WriteString(col + " LIKE ")
		w.param("String", p.like())
		return
	}
	switch {
	case p.OpenStart && p.OpenEnd:
		w.b.WriteString("position(" + col + ", ")
		w.param("String", p.Pieces[0])
		w.b.WriteString(") > 0")
		return
	case p.OpenEnd:
		w.b.WriteString("startsWith(" + col + ", ")
	default:
		w.b.WriteString("endsWith(" + col + ", ")
	}
	w.param("String", p.Pieces[0])
	w.b.WriteByte(')')
}
