package clickhouse

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
)

// columns are what an event is made of, in the order that scan reads them.
const columns = "created_at, id, actor_id, actor_type, action, resource_type, resource_id, metadata, reasoning, ingested_at, stream_seq"

// newestFirst is the primary key backwards, so that rows are read in order and reading stops at the limit. One more column in it, such as the sequence,
// and whole blocks of every part are read and sorted instead. So copies of one event lie next to each other, in any order.
const newestFirst = "tenant_id DESC, created_at DESC, toUInt128(id) DESC"

// timeText is how a moment is written as a parameter of the type DateTime64(6, 'UTC').
const timeText = "2006-01-02 15:04:05.000000"

// span is a stretch of time: from <= created_at < to, each open when zero.
type span struct {
	from, to time.Time
}

// statement is a query in the making. Values only ever become parameters; the text depends on nothing but which filters there are.
type statement struct {
	// first are terms of which ClickHouse reads the columns, and no others, before it knows which rows to complete.
	first []string
	terms []string
	args  map[string]string
	order string
	// indexed says that a term is answered by the index over the filter columns.
	indexed bool
}

// newStatement selects the rows of the scope: the tenant's partition, the tenant itself, and what policies leave of it.
func newStatement(scope policy.Scope, partition int) *statement {
	s := newTenantStatement(scope.Tenant(), partition)
	text, args := scope.Where()
	s.terms = append(s.terms, "("+text+")")
	for name, value := range args {
		s.args[name] = fmt.Sprint(value)
	}
	return s
}

// newTenantStatement selects all rows of a tenant: for questions of which no row is shown.
func newTenantStatement(tenant uuid.UUID, partition int) *statement {
	s := &statement{args: map[string]string{}, order: newestFirst}
	s.where("partition = {partition:UInt16}", "partition", strconv.Itoa(partition))
	s.where("tenant_id = {tenant:UUID}", "tenant", tenant.String())
	return s
}

// where adds a condition and the value of the parameter in it.
func (s *statement) where(term, name, value string) {
	s.terms = append(s.terms, term)
	s.args[name] = value
}

// during adds the bounds of a span.
func (s *statement) during(w span) {
	if !w.from.IsZero() {
		s.where("created_at >= {from:DateTime64(6, 'UTC')}", "from", w.from.UTC().Format(timeText))
	}
	if !w.to.IsZero() {
		s.where("created_at < {to:DateTime64(6, 'UTC')}", "to", w.to.UTC().Format(timeText))
	}
}

// after continues behind a position. The scalar bound finds the place in the primary key; the tuple settles equal times.
func (s *statement) after(p *audit.Position) {
	if p == nil {
		return
	}
	s.where("created_at <= {after:DateTime64(6, 'UTC')}", "after", p.CreatedAt.UTC().Format(timeText))
	s.where("(created_at, toUInt128(id)) < ({after:DateTime64(6, 'UTC')}, toUInt128({after_id:UUID}))", "after_id", p.ID.String())
}

// is limits the statement to one event. Its id is written as a text: as a UUID it would be looked for in the primary key, granule by granule. Of the rows that the
// index leaves, all of those in parts that it is yet to be built for, ids alone are read.
func (s *statement) is(id uuid.UUID) {
	s.first = append(s.first, "toString(id) = {id:String}", "substring(hex(cityHash64(id)), 1, 5) = substring(hex(cityHash64(toUUID({id:String}))), 1, 5)")
	s.args["id"] = id.String()
}

// sql is the text, for at most limit rows.
func (s *statement) sql(limit int) string {
	s.args["limit"] = strconv.Itoa(limit)
	first := ""
	if len(s.first) > 0 {
		first = "PREWHERE " + strings.Join(s.first, "\n  AND ") + "\n"
	}
	return "SELECT " + columns + "\nFROM event_log\n" + first + "WHERE " + strings.Join(s.terms, "\n  AND ") +
		"\nORDER BY " + s.order + "\nLIMIT {limit:UInt32}"
}

// named are the parameters as clickhouse-go takes them, in a fixed order.
func (s *statement) named() []any {
	names := make([]string, 0, len(s.args))
	for name := range s.args {
		names = append(names, name)
	}
	slices.Sort(names)
	out := make([]any, len(names))
	for i, name := range names {
		out[i] = chgo.Named(name, s.args[name])
	}
	return out
}
