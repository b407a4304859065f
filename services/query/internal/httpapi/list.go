package httpapi

import (
	"errors"
	"net/http"
	"sync"

	"github.com/gin-gonic/gin"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
	"example.com/auditlog/services/query/internal/trail"
)

// maxPooledBytes keeps a page of huge events from holding its memory for ever.
const maxPooledBytes = 1 << 20

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 32<<10); return &b }}

// list answers GET /v1/audit-log.
func (s *Server) list(c *gin.Context) {
	p, faults := parseList(c.Request.URL.RawQuery)
	key := keyOf(c)
	q, cursorErr := p.query(key.Tenant, s.Cursors)
	if e := listFaults(faults, cursorErr); e != nil {
		s.fail(c, e)
		return
	}
	scope, ok := s.authorize(c, policy.QueryLog, p.filter, p.limit)
	if !ok || !s.enter(c) {
		return
	}
	page, err := func() (audit.Page, error) {
		defer s.leave(c)
		return s.Events.Page(c.Request.Context(), scope, q)
	}()
	if err != nil {
		s.fail(c, storeError(err))
		return
	}
	cursor := ""
	if page.More {
		cursor = s.Cursors.Encode(key.Tenant, &p.filter, page.Events[len(page.Events)-1].Position())
	}
	c.Set(ctxRows, len(page.Events))
	if !s.recorded(c, len(page.Events), func(r *trail.Read) { r.Continued = q.After != nil }) {
		return
	}
	s.writePage(c, &page, cursor)
}

// listFaults is the answer to faulty parameters, nil when there are none. A cursor is wrong by itself only where everything else is right: with
// filters that cannot be read, nobody can say whether it fits them.
func listFaults(faults []fault, cursorErr error) *apiError {
	if len(faults) > 0 {
		if cursorErr != nil {
			faults = append(faults, fault{"cursor", "is not a next_cursor of this tenant and these filters"})
		}
		return invalid(faults...)
	}
	if cursorErr == nil {
		return nil
	}
	return &apiError{status: http.StatusBadRequest, Code: codeInvalidCursor, Message: "The cursor does not belong to this tenant and these filters: begin again without it.",
		Details: []fault{{"cursor", "must be the next_cursor of a page of this tenant with the same filters, from and to"}}}
}

func (s *Server) writePage(c *gin.Context, page *audit.Page, cursor string) {
	buf, _ := buffers.Get().(*[]byte)
	*buf = appendPage((*buf)[:0], page, cursor)
	writeJSON(c, http.StatusOK, *buf)
	if cap(*buf) <= maxPooledBytes {
		buffers.Put(buf)
	}
}

// event answers GET /v1/audit-log/{id}. An event that is absent, of another tenant or hidden looks the same.
func (s *Server) event(c *gin.Context) {
	id, ok := parseUUID(c.Param("id"))
	if !ok {
		s.fail(c, invalid(fault{"id", "must be a UUID of the form 8-4-4-4-12"}))
		return
	}
	if params, faults := splitQuery(c.Request.URL.RawQuery); len(params)+len(faults) > 0 {
		r := &paramReader{values: params, faults: faults}
		r.rest()
		s.fail(c, invalid(r.faults...))
		return
	}
	scope, ok := s.authorize(c, policy.QueryLog, audit.Filter{}, 1)
	if !ok || !s.enter(c) {
		return
	}
	e, err := func() (audit.Event, error) {
		defer s.leave(c)
		return s.Events.Event(c.Request.Context(), scope, id)
	}()
	if err != nil && !errors.Is(err, audit.ErrNotFound) {
		s.fail(c, storeError(err))
		return
	}
	found := 1
	if err != nil {
		found = 0
	}
	if !s.recorded(c, found, func(r *trail.Read) { r.EventID = id }) {
		return
	}
	if found == 0 {
		s.fail(c, storeError(err))
		return
	}
	c.Set(ctxRows, 1)
	writeJSON(c, http.StatusOK, appendEvent(nil, &e))
}
