package httpapi

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
)

// maxNameShown bounds how much of an unknown parameter's name is repeated.
const maxNameShown = 64

// listParams are the parameters of GET /v1/audit-log.
type listParams struct {
	limit  int
	filter audit.Filter
	cursor string
}

// parseList reads the query string of a list. Every fault is reported.
func parseList(raw string) (listParams, []fault) {
	values, faults := splitQuery(raw)
	p := listParams{limit: audit.DefaultLimit}
	r := &paramReader{values: values, faults: faults}
	p.limit = r.limit()
	p.cursor = r.one("cursor")
	p.filter = r.filter()
	r.rest()
	return p, r.faults
}

// filter is the filters, normalized.
func (r *paramReader) filter() audit.Filter {
	f := audit.Filter{
		ActorIDs:      r.any("actor_id"),
		ResourceTypes: r.any("resource_type"),
		ResourceIDs:   r.any("resource_id"),
		Actions:       r.any("action"),
	}
	f.From, f.To = r.bounds()
	f.Normalize()
	return f
}

// query is the parameters as a question to the store. The error is audit.ErrCursor when the cursor is of another walk.
func (p *listParams) query(tenant uuid.UUID, cursors *audit.Cursors) (audit.PageQuery, error) {
	q := audit.PageQuery{Tenant: tenant, Filter: p.filter, Limit: p.limit}
	if p.cursor == "" {
		return q, nil
	}
	after, err := cursors.Decode(p.cursor, tenant, &p.filter)
	if err != nil {
		return q, err
	}
	q.After = &after
	return q, nil
}

// parameter is one name with its values, in the order they came.
type parameter struct {
	name   string
	values []string
}

// splitQuery splits a query string strictly: net/url passes over what it cannot read, and a filter that is passed over widens the answer.
func splitQuery(raw string) ([]parameter, []fault) {
	var params []parameter
	var faults []fault
	if strings.Contains(raw, ";") {
		faults = append(faults, fault{"query", "the character ; separates nothing: write & between parameters, or %3B in a value"})
	}
	for piece := range strings.SplitSeq(raw, "&") {
		if piece == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(piece, "=")
		name, nameErr := url.QueryUnescape(rawName)
		value, valueErr := url.QueryUnescape(rawValue)
		switch {
		case nameErr != nil || !utf8.ValidString(name):
			faults = append(faults, fault{shown(rawName), "is not valid percent-encoded UTF-8"})
		case valueErr != nil || !utf8.ValidString(value):
			faults = append(faults, fault{shown(name), "must be percent-encoded UTF-8"})
		default:
			params = add(params, name, value)
		}
	}
	return params, faults
}

func add(params []parameter, name, value string) []parameter {
	for i := range params {
		if params[i].name == name {
			params[i].values = append(params[i].values, value)
			return params
		}
	}
	return append(params, parameter{name, []string{value}})
}

// shown is a name as errors repeat it: cut, and without what is not UTF-8.
func shown(name string) string {
	if len(name) > maxNameShown {
		name = name[:maxNameShown] + "…"
	}
	return strings.ToValidUTF8(name, "\ufffd")
}

// paramReader takes parameters out of values and collects what is wrong with them.
type paramReader struct {
	values []parameter
	faults []fault
}

func (r *paramReader) fault(name, format string, args ...any) {
	r.faults = append(r.faults, fault{name, fmt.Sprintf(format, args...)})
}

// take removes a parameter and returns its values.
func (r *paramReader) take(name string) []string {
	for i, p := range r.values {
		if p.name == name {
			r.values = append(r.values[:i], r.values[i+1:]...)
			return p.values
		}
	}
	return nil
}

// one is the value of a parameter that may be given once; empty when it is absent or wrong.
func (r *paramReader) one(name string) string {
	values := r.take(name)
	switch {
	case len(values) > 1:
		r.fault(name, "must be given once")
		return ""
	case len(values) == 1 && values[0] == "":
		r.fault(name, "must not be empty")
	case len(values) == 1:
		return values[0]
	}
	return ""
}

// any is the values of a filter.
func (r *paramReader) any(name string) []string {
	values := r.take(name)
	if len(values) > audit.MaxValues {
		r.fault(name, "may be repeated up to %d times", audit.MaxValues)
		return nil
	}
	for _, v := range values {
		if v == "" {
			r.fault(name, "must not be empty")
			return nil
		}
		if len(v) > audit.MaxValueBytes {
			r.fault(name, "must have at most %d bytes", audit.MaxValueBytes)
			return nil
		}
	}
	return values
}

// limit is a whole number from 1; whatever is above the greatest page counts as that.
func (r *paramReader) limit() int {
	v := r.one("limit")
	if v == "" {
		return audit.DefaultLimit
	}
	digits := strings.TrimLeft(v, "0")
	if digits == "" || strings.Trim(v, "0123456789") != "" {
		r.fault("limit", "must be a whole number from 1")
		return audit.DefaultLimit
	}
	if len(digits) > len(strconv.Itoa(audit.MaxLimit)) {
		return audit.MaxLimit
	}
	n, err := strconv.Atoi(digits)
	if err != nil {
		return audit.MaxLimit
	}
	return min(n, audit.MaxLimit)
}

// bounds are from and to.
func (r *paramReader) bounds() (from, to time.Time) {
	from, fromOK := r.time("from")
	to, toOK := r.time("to")
	if fromOK && toOK && from.After(to) {
		r.fault("from", "must not be later than to")
	}
	return from, to
}

func (r *paramReader) time(name string) (t time.Time, given bool) {
	v := r.one(name)
	if v == "" {
		return time.Time{}, false
	}
	t, ok := parseTime(v)
	switch {
	case ok:
		return t, true
	case strings.Contains(v, " "):
		r.fault(name, "must be RFC 3339 with an offset, such as 2026-11-23T01:02:03Z; a + in a URL means a space: write %%2B")
	default:
		r.fault(name, "must be RFC 3339 with an offset, such as 2026-11-23T01:02:03Z")
	}
	return time.Time{}, false
}

// rest reports the parameters that nobody asked for.
func (r *paramReader) rest() {
	for _, p := range r.values {
		r.fault(shown(p.name), "is not a parameter of this address")
	}
}
