package httpapi

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/keys"
	"example.com/auditlog/services/query/internal/policy"
	"example.com/auditlog/services/query/internal/trail"
)

// ctxRead is where authorize leaves the read that is to be taken down once it is known what it gave.
const ctxRead = "read"

// readOf is the read that a request is, as far as its key and its route tell.
func readOf(c *gin.Context, k *keys.Key) trail.Read {
	return trail.Read{Tenant: k.Tenant, KeyID: k.ID, KeyName: k.Name, Route: c.FullPath(), RequestID: requestID(c), Source: source(c.Request)}
}

// decided keeps the read of a decision for recorded, or takes it down at once if it is a denial. False means that an answer has been given.
func (s *Server) decided(c *gin.Context, action policy.Action, f audit.Filter, limit int, d policy.Decision) bool {
	r := readOf(c, keyOf(c))
	r.Export, r.Filter, r.Limit, r.Policies = action == policy.ExportLog, f, limit, d.Policies
	if !d.Allowed {
		r.Denied, r.Code = true, d.Code
		return s.take(c, r)
	}
	c.Set(ctxRead, r)
	return true
}

// mismatched takes down that a key asked for the log of another tenant.
func (s *Server) mismatched(c *gin.Context, k *keys.Key, asked string) bool {
	r := readOf(c, k)
	r.Denied, r.Code, r.TenantAsked = true, codeTenantMismatch, asked
	return s.take(c, r)
}

// recorded takes down a read that authorize has permitted, with what it gave. It comes before the answer: false means that one has been given, and
// that nothing of the log may be in it. change may add to the read.
func (s *Server) recorded(c *gin.Context, returned int, change ...func(*trail.Read)) bool {
	r, ok := c.Value(ctxRead).(trail.Read)
	if !ok {
		s.fail(c, internalError(errUnauthorized))
		return false
	}
	r.Returned = returned
	for _, f := range change {
		f(&r)
	}
	return s.take(c, r)
}

func (s *Server) take(c *gin.Context, r trail.Read) bool {
	if s.Trail == nil {
		return true
	}
	if err := s.Trail.Record(c.Request.Context(), r); err != nil {
		s.fail(c, &apiError{status: http.StatusServiceUnavailable, Code: codeUnavailable, cause: err, retryAfter: retryUnavailable,
			Message: "The read cannot be recorded, which is required here: try again later."})
		return false
	}
	return true
}

// ended takes down how an export ended whose beginning recorded has taken down. It waits for nothing: what was sent cannot be called back.
func (s *Server) ended(c *gin.Context, export uuid.UUID, count int, whole bool) {
	r, ok := c.Value(ctxRead).(trail.Read)
	if !ok || s.Trail == nil {
		return
	}
	r.ExportID, r.Returned, r.Outcome = export, count, trail.Broken
	if whole {
		r.Outcome = trail.Complete
	}
	if err := s.Trail.Record(context.WithoutCancel(c.Request.Context()), r); err != nil {
		s.log.Error("the end of an export cannot be recorded", slog.String("request_id", requestID(c)), slog.Any("error", err))
	}
}
