package httpapi

import (
	"compress/gzip"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/services/query/internal/audit"
	"example.com/auditlog/services/query/internal/policy"
	"example.com/auditlog/services/query/internal/trail"
)

// Limits of exports.
const (
	// MaxExports is how many may run at the same time, one fewer of one tenant; each has two connections to the store: one that reads, one that looks for copies.
	MaxExports = 4
	// exportChunk is how much is written at once.
	exportChunk = 64 << 10
	// DefaultClientStall is how long a client may take for one chunk. A slower one is cut off.
	DefaultClientStall = 30 * time.Second
	// recheckEvery is how often an export makes sure that its key is still good.
	recheckEvery = time.Second
)

// trailerComplete says that an export is whole: "true; count=N". One that was cut off has no trailer.
const trailerComplete = "Audit-Complete"

// errKeyEnded ends an export whose key has been revoked or may no longer export.
var errKeyEnded = errors.New("the key is no longer permitted to export")

type streamMetrics struct {
	waiting, exporting prometheus.Gauge
	exports            *prometheus.CounterVec
	rows               prometheus.Counter
}

func newStreamMetrics() streamMetrics {
	return streamMetrics{
		waiting:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "audit_query_feeds_waiting", Help: "Feed requests that wait for events."}),
		exporting: prometheus.NewGauge(prometheus.GaugeOpts{Name: "audit_query_exports_running", Help: "Exports under way."}),
		exports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "audit_query_exports_total", Help: "Exports that were begun, by how they ended."}, []string{"outcome"}),
		rows: prometheus.NewCounter(prometheus.CounterOpts{Name: "audit_query_exported_events_total", Help: "Events written by exports."}),
	}
}

func (m *streamMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.waiting, m.exporting, m.exports, m.rows}
}

// export answers GET /v1/audit-log/export.
func (s *Server) export(c *gin.Context) {
	values, faults := splitQuery(c.Request.URL.RawQuery)
	r := &paramReader{values: values, faults: faults}
	format, known := exportFormats[r.format()]
	filter := r.filter()
	r.rest()
	if len(r.faults) > 0 || !known {
		s.fail(c, invalid(r.faults...))
		return
	}
	scope, ok := s.authorize(c, policy.ExportLog, filter, 0)
	if !ok {
		return
	}
	tenant := keyOf(c).Tenant
	if s.exports.enter(c.Request.Context(), tenant) != nil {
		s.fail(c, errTooManyExports)
		return
	}
	defer s.exports.leave(tenant)
	x := &exporter{s: s, c: c, id: uuid.New(), format: format, filter: filter, checked: time.Now()}
	if !s.recorded(c, 0, func(r *trail.Read) { r.ExportID = x.id }) {
		return
	}
	if c.Request.Method == http.MethodHead {
		x.header()
		c.Status(http.StatusOK)
		c.Writer.WriteHeaderNow()
		s.ended(c, x.id, 0, true)
		return
	}
	x.run(scope)
}

func (r *paramReader) format() string {
	v := r.one("format")
	if v == "" {
		v = "ndjson"
	}
	if _, ok := exportFormats[v]; !ok {
		r.fault("format", "must be ndjson or csv")
	}
	return v
}

// exporter is one export under way.
type exporter struct {
	s      *Server
	c      *gin.Context
	id     uuid.UUID
	format exportFormat
	filter audit.Filter

	buf     []byte
	zip     *gzip.Writer // nil without compression
	out     io.Writer
	begun   bool
	count   int
	checked time.Time // when the key was last known to be good
}

// run streams everything. What cannot be ended whole is cut off in the middle of its transfer encoding, so that no client takes it for an end.
func (x *exporter) run(scope policy.Scope) {
	m := &x.s.metrics.stream
	m.exporting.Inc()
	defer m.exporting.Dec()
	err := x.s.Events.Export(x.c.Request.Context(), scope, x.filter, x.add)
	if err == nil {
		err = x.finish()
	}
	x.s.ended(x.c, x.id, x.count, err == nil)
	m.rows.Add(float64(x.count))
	x.c.Set(ctxRows, x.count)
	if err == nil {
		m.exports.WithLabelValues("complete").Inc()
		return
	}
	m.exports.WithLabelValues("broken").Inc()
	if !x.begun {
		x.s.fail(x.c, storeError(err))
		return
	}
	x.s.log.WarnContext(x.c.Request.Context(), "export cut off", slog.String("key_id", keyOf(x.c).ID), slog.Int("rows", x.count), slog.Any("error", err))
	panic(http.ErrAbortHandler)
}

// add writes one event.
func (x *exporter) add(e *audit.Event) error {
	if x.buf == nil {
		x.buf = append(make([]byte, 0, exportChunk+exportChunk/4), x.format.head...)
	}
	x.buf = x.format.append(x.buf, e)
	x.count++
	if len(x.buf) < exportChunk {
		return nil
	}
	return x.flush()
}

// flush sends what is in the buffer, with a time limit on the client.
func (x *exporter) flush() error {
	if !x.begun {
		x.begin()
	}
	if now := time.Now(); now.Sub(x.checked) > recheckEvery {
		if !x.permitted(now) {
			return errKeyEnded
		}
		x.checked = now
	}
	if err := http.NewResponseController(x.c.Writer).SetWriteDeadline(time.Now().Add(x.s.clientStall)); err != nil {
		return err
	}
	_, err := x.out.Write(x.buf)
	x.buf = x.buf[:0]
	return err
}

// permitted asks again whether the key may export. It writes no answer: that has begun.
func (x *exporter) permitted(now time.Time) bool {
	text, _ := single(x.c.Request.Header, headerKey)
	k, err := x.s.Keys.Authenticate(text, source(x.c.Request), now)
	if err != nil {
		return false
	}
	return x.s.Gate.Decide(x.c.Request.Context(), policy.Request{
		Principal: k.Principal(), Tenant: k.Tenant, Action: policy.ExportLog, Filter: x.filter, SourceIP: source(x.c.Request), Now: now,
	}).Allowed
}

func (x *exporter) header() {
	h := x.c.Writer.Header()
	h.Set("Content-Type", x.format.contentType)
	h.Set("Content-Disposition", `attachment; filename="audit-log-`+time.Now().UTC().Format("20060102T150405Z")+x.format.extension+`"`)
	h.Set("Vary", "Accept-Encoding")
	h.Set("Trailer", trailerComplete)
	if acceptsGzip(x.c.Request.Header) {
		h.Set("Content-Encoding", "gzip")
	}
}

func (x *exporter) begin() {
	x.begun = true
	x.header()
	x.c.Status(http.StatusOK)
	x.out = x.c.Writer
	if acceptsGzip(x.c.Request.Header) {
		x.zip, _ = gzip.NewWriterLevel(x.c.Writer, gzip.BestSpeed) // the level is valid
		x.out = x.zip
	}
}

// finish writes the end: the last line, the end of the compression, the trailer.
func (x *exporter) finish() error {
	if x.buf == nil {
		x.buf = append(x.buf, x.format.head...)
	}
	x.buf = x.format.end(x.buf, x.count)
	if err := x.flush(); err != nil {
		return err
	}
	if x.zip != nil {
		if err := x.zip.Close(); err != nil {
			return err
		}
	}
	x.c.Writer.Header().Set(trailerComplete, "true; count="+strconv.Itoa(x.count))
	return nil
}

// acceptsGzip says whether the client takes gzip, by name and not at a quality of zero.
func acceptsGzip(h http.Header) bool {
	for _, line := range h.Values("Accept-Encoding") {
		for item := range strings.SplitSeq(line, ",") {
			name, parameter, _ := strings.Cut(item, ";")
			if strings.EqualFold(strings.TrimSpace(name), "gzip") {
				_, q, given := strings.Cut(strings.ReplaceAll(parameter, " ", ""), "q=")
				v, err := strconv.ParseFloat(q, 64)
				return !given || err == nil && v > 0
			}
		}
	}
	return false
}
