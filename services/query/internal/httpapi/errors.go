package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"example.com/auditlog/services/query/internal/audit"
)

// Codes of errors. docs and openapi.yaml list them with their meaning.
const (
	codeMalformed        = "malformed_request"
	codeNotFound         = "not_found"
	codeMethodNotAllowed = "method_not_allowed"
	codeURITooLong       = "uri_too_long"
	codeHeaderTooLarge   = "header_too_large"
	codeUnauthenticated  = "unauthenticated"
	codeTenantMismatch   = "tenant_mismatch"
	codeInvalidParameter = "invalid_parameter"
	codeInvalidCursor    = "invalid_cursor"
	codeForbidden        = "forbidden"
	codeRateLimited      = "rate_limited"
	codeUnavailable      = "unavailable"
	codeTimeout          = "timeout"
	codeInternal         = "internal"
)

// Seconds after which a client may try again.
const (
	retryUnavailable = 2 * time.Second
	retryTimeout     = 5 * time.Second
)

// statusClientGone is logged when there was nobody left to answer.
const statusClientGone = 499

// fault is one thing wrong with a request.
type fault struct {
	Parameter string `json:"parameter"`
	Message   string `json:"message"`
}

// apiError is the body of every answer that is not a success, and how it is sent.
type apiError struct {
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Details []fault  `json:"details,omitempty"`
	Notices []string `json:"notices,omitempty"`

	status     int
	retryAfter time.Duration
	// cause is for the log alone.
	cause error
}

func (e *apiError) Error() string { return e.Code + ": " + e.Message }

func (e *apiError) Unwrap() error { return e.cause }

var (
	errNotFound         = &apiError{status: http.StatusNotFound, Code: codeNotFound, Message: "There is nothing at this address."}
	errMethodNotAllowed = &apiError{status: http.StatusMethodNotAllowed, Code: codeMethodNotAllowed, Message: "The log can only be read: use GET or HEAD."}
	errURITooLong       = &apiError{status: http.StatusRequestURITooLong, Code: codeURITooLong,
		Message: "The URL has more than " + strconv.Itoa(maxURLBytes) + " bytes."}
	errHeaderTooLarge = &apiError{status: http.StatusRequestHeaderFieldsTooLarge, Code: codeHeaderTooLarge,
		Message: "The header has more than " + strconv.Itoa(maxFieldBytes) + " bytes."}
	errUnauthenticated = &apiError{status: http.StatusUnauthorized, Code: codeUnauthenticated, Message: "A valid API key is required in the header X-API-Key."}
	errTenantMismatch  = &apiError{status: http.StatusForbidden, Code: codeTenantMismatch, Message: "The API key does not belong to the tenant in X-Tenant-ID."}
	errTenantHeader    = invalid(fault{headerTenant, "must be given once, as a UUID of the form 8-4-4-4-12"})
	errBusy            = &apiError{status: http.StatusServiceUnavailable, Code: codeUnavailable, Message: "Too many requests are under way: try again later.",
		retryAfter: retryUnavailable}
	errTooManyExports = &apiError{status: http.StatusServiceUnavailable, Code: codeUnavailable, retryAfter: retryTimeout,
		Message: "Too many exports are under way: try again later."}
	errPositionUnknown = &apiError{status: http.StatusServiceUnavailable, Code: codeUnavailable, retryAfter: retryUnavailable,
		Message: "Nothing new is known of, and whether there is cannot be found out at the moment: try again later with the same cursor."}
)

// errUnauthorized is a mistake of ours: an answer without a decision.
var errUnauthorized = errors.New("a read was answered that authorize has not seen")

// invalid is the answer to a request with faults.
func invalid(faults ...fault) *apiError {
	return &apiError{status: http.StatusBadRequest, Code: codeInvalidParameter, Message: "The request has faults: see details.", Details: faults}
}

// storeError is the answer to an error of the event store.
func storeError(err error) *apiError {
	switch {
	case errors.Is(err, context.Canceled):
		return &apiError{status: statusClientGone, Code: codeUnavailable, Message: "The request was given up.", cause: err}
	case errors.Is(err, audit.ErrNotFound):
		return errNotFound
	case errors.Is(err, audit.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return &apiError{status: http.StatusGatewayTimeout, Code: codeTimeout, cause: err, retryAfter: retryTimeout,
			Message: "The query went over its time budget: narrow it with from and to, or try again later."}
	case errors.Is(err, audit.ErrUnavailable):
		return &apiError{status: http.StatusServiceUnavailable, Code: codeUnavailable, cause: err, retryAfter: retryUnavailable,
			Message: "The event store cannot be reached: try again later."}
	}
	return internalError(err)
}

func internalError(cause error) *apiError {
	return &apiError{status: http.StatusInternalServerError, Code: codeInternal, Message: "Internal error. The request id helps to find it in the log.", cause: cause}
}

// fail answers with an error and ends the request.
func (s *Server) fail(c *gin.Context, e *apiError) {
	c.Abort()
	if e.cause != nil && e.status != statusClientGone {
		s.log.ErrorContext(c.Request.Context(), "request failed", slog.String("code", e.Code), slog.Any("error", e.cause))
	}
	h := c.Writer.Header()
	if e.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `ApiKey realm="audit-log", header="`+headerKey+`"`)
	}
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	c.Set(ctxCode, e.Code)
	writeJSON(c, e.status, appendError(nil, e))
}
