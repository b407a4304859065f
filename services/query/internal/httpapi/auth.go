package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/keys"
	"example.com/auditlog/services/query/internal/policy"
)

// Headers that say who asks for what.
const (
	headerKey    = "X-API-Key"
	headerTenant = "X-Tenant-ID"
)

// authenticate finds the key of a request and makes sure that it belongs to the tenant asked for.
func (s *Server) authenticate(c *gin.Context) {
	text, ok := single(c.Request.Header, headerKey)
	if !ok {
		s.fail(c, errUnauthenticated)
		return
	}
	key, err := s.Keys.Authenticate(text, source(c.Request), time.Now())
	if err != nil {
		s.fail(c, errUnauthenticated)
		return
	}
	c.Set(ctxKey, key)
	text, ok = single(c.Request.Header, headerTenant)
	tenant, valid := parseUUID(text)
	if !ok || !valid {
		s.fail(c, errTenantHeader)
		return
	}
	if tenant != key.Tenant {
		if !s.mismatched(c, key, tenant.String()) {
			return
		}
		s.fail(c, errTenantMismatch)
		return
	}
	c.Set(ctxTenant, tenant.String())
}

// single is the value of a header that must be there once: of two, nobody knows which one somebody in between has checked.
func single(h http.Header, name string) (string, bool) {
	values := h.Values(name)
	if len(values) != 1 || values[0] == "" {
		return "", false
	}
	return values[0], true
}

// source is the address at the other end of the connection; the zero value when it is none.
func source(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// parseUUID reads the form 8-4-4-4-12 in either case and no other; uuid.Parse takes braces, "urn:uuid:" and bare digits as well.
func parseUUID(s string) (uuid.UUID, bool) {
	if len(s) != 36 || strings.Count(s, "-") != 4 {
		return uuid.Nil, false
	}
	id, err := uuid.Parse(s)
	return id, err == nil
}

func keyOf(c *gin.Context) *keys.Key {
	k, _ := c.Value(ctxKey).(*keys.Key)
	return k
}

// authorize asks the policies, then the key's rate. Nil means that an answer has been given.
func (s *Server) authorize(c *gin.Context, action policy.Action, f audit.Filter, limit int) (policy.Scope, bool) {
	k := keyOf(c)
	d := s.Gate.Decide(c.Request.Context(), policy.Request{
		Principal: k.Principal(), Tenant: k.Tenant, Action: action, Filter: f, Limit: limit, SourceIP: source(c.Request), Now: time.Now(),
	})
	if !s.decided(c, action, f, limit, d) {
		return policy.Scope{}, false
	}
	if !d.Allowed {
		s.log.InfoContext(c.Request.Context(), "request denied by policy", slog.String("key_id", k.ID), slog.String("code", d.Code),
			slog.Any("policies", d.Policies))
		s.fail(c, denied(d))
		return policy.Scope{}, false
	}
	if wait := s.rates.wait(k.ID, time.Now()); wait > 0 {
		s.fail(c, &apiError{status: http.StatusTooManyRequests, Code: codeRateLimited, Message: "The API key makes too many requests.", retryAfter: wait})
		return policy.Scope{}, false
	}
	return d.Scope, true
}

// denied is the answer to a denial. Its code is the same for every policy, so that clients can rely on it; a policy's own @code, or that one failed,
// is for the log and the record of reads.
func denied(d policy.Decision) *apiError {
	return &apiError{status: http.StatusForbidden, Code: codeForbidden, Message: "The policies do not permit this request.", Notices: d.Notices}
}

// enter waits for the turn of the request's tenant at the store; leave ends it. False means that an answer has been given.
func (s *Server) enter(c *gin.Context) bool {
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.queueTimeout)
	defer cancel()
	err := s.turns.enter(ctx, keyOf(c).Tenant)
	switch {
	case err == nil:
		return true
	case c.Request.Context().Err() != nil:
		s.fail(c, storeError(c.Request.Context().Err()))
	default:
		s.fail(c, errBusy)
	}
	return false
}

func (s *Server) leave(c *gin.Context) { s.turns.leave(keyOf(c).Tenant) }
