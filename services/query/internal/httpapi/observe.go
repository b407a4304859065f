package httpapi

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

// Names in gin's context.
const (
	ctxRequestID = "request_id"
	ctxCode      = "code"
	ctxKey       = "key"
	ctxTenant    = "tenant"
	ctxRows      = "rows"
)

const headerRequestID = "X-Request-ID"

// validRequestID is what is taken over from a client: it goes into logs and headers.
var validRequestID = regexp.MustCompile(`^[A-Za-z0-9._~:/+=@-]{1,128}$`)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
	stream   streamMetrics
}

// newMetrics makes the metrics of s and registers them with reg.
func newMetrics(reg prometheus.Registerer, s *Server) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "audit_query_http_requests_total", Help: "Requests to the API by route, status and error code."}, []string{"route", "status", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "audit_query_http_request_duration_seconds", Help: "Time from the end of a request's header to the end of its answer, by route.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20}}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "audit_query_http_requests_in_flight", Help: "Requests that are being answered."}),
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	m.stream = newStreamMetrics()
	all := append(m.stream.collectors(), m.requests, m.seconds, m.inFlight,
		gauge("audit_query_slots", "Requests that may use the event store at the same time.", func() int { return s.turns.slots }),
		gauge("audit_query_slots_in_use", "Requests that use the event store. At audit_query_slots the others wait.",
			func() int { inUse, _ := s.turns.state(); return inUse }),
		gauge("audit_query_slots_waiting", "Requests that wait for their turn at the event store. They are refused with 503 after AUDIT_QUERY_TIMEOUT.",
			func() int { _, waiting := s.turns.state(); return waiting }),
		gauge("audit_query_rate_limited_keys", "API keys whose rate is watched: those that asked lately.", s.rates.size))
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register the API's metrics: %w", err)
		}
	}
	return m, nil
}

// observe is around everything: it sets the headers that every answer has, measures, and logs one line.
func (s *Server) observe(c *gin.Context) {
	began := time.Now()
	id := requestIDOf(c.Request.Header)
	c.Set(ctxRequestID, id)
	h := c.Writer.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set(headerRequestID, id)
	s.metrics.inFlight.Inc()
	defer s.metrics.inFlight.Dec()
	defer finish(c, s.begin(c, id))
	if len(c.Request.RequestURI) > maxURLBytes {
		s.fail(c, errURITooLong)
	} else if fieldBytes(c.Request.Header) > maxFieldBytes {
		s.fail(c, errHeaderTooLarge)
	} else {
		c.Next()
	}
	s.record(c, time.Since(began))
}

func (s *Server) record(c *gin.Context, took time.Duration) {
	route := routeOf(c)
	status := c.Writer.Status()
	s.metrics.requests.WithLabelValues(route, strconv.Itoa(status), c.GetString(ctxCode)).Inc()
	s.metrics.seconds.WithLabelValues(route).Observe(took.Seconds())
	attrs := []slog.Attr{
		slog.String("method", c.Request.Method), slog.String("route", route), slog.Int("status", status),
		slog.Duration("took", took), slog.Int("bytes", max(c.Writer.Size(), 0)), slog.String("remote", c.Request.RemoteAddr),
	}
	for _, name := range []string{ctxCode, ctxTenant} {
		if v := c.GetString(name); v != "" {
			attrs = append(attrs, slog.String(name, v))
		}
	}
	if k := keyOf(c); k != nil {
		attrs = append(attrs, slog.String("key_id", k.ID))
	}
	if n, ok := c.Get(ctxRows); ok {
		attrs = append(attrs, slog.Any(ctxRows, n))
	}
	s.log.LogAttrs(c.Request.Context(), slog.LevelInfo, "request", attrs...)
}

// refused counts what net/http has refused before it was a request.
func (s *Server) refused(status int) {
	code := codeMalformed
	if status == http.StatusRequestHeaderFieldsTooLarge {
		code = codeHeaderTooLarge
	}
	s.metrics.requests.WithLabelValues("none", strconv.Itoa(status), code).Inc()
}

// recovered turns a panic into an answer.
func (s *Server) recovered(c *gin.Context) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(v)
		}
		s.log.ErrorContext(c.Request.Context(), "panic while answering a request", slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
		if c.Writer.Written() {
			panic(http.ErrAbortHandler) // half an answer must not look like a whole one
		}
		s.fail(c, internalError(nil))
	}()
	c.Next()
}

// fieldBytes is the size of a header's names and values.
func fieldBytes(h http.Header) int {
	n := 0
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(v)
		}
	}
	return n
}

func requestIDOf(h http.Header) string {
	if given := h.Values(headerRequestID); len(given) == 1 && validRequestID.MatchString(given[0]) {
		return given[0]
	}
	return uuid.NewString()
}

func requestID(c *gin.Context) string { return c.GetString(ctxRequestID) }
