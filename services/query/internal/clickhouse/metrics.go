package clickhouse

import (
	"context"
	"fmt"
	"time"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
)

// kind is what a query is for: a label, and the name of its span.
type kind string

const (
	kindPage   kind = "page"
	kindEvent  kind = "event"
	kindFeed   kind = "feed"
	kindExport kind = "export"
)

type kindKey struct{}

func withKind(ctx context.Context, k kind) context.Context {
	return context.WithValue(ctx, kindKey{}, k)
}

func kindOf(ctx context.Context) kind {
	k, _ := ctx.Value(kindKey{}).(kind)
	return k
}

// metrics are the reader's. A request may take several queries.
type metrics struct {
	seconds   *prometheus.HistogramVec
	rowsRead  *prometheus.CounterVec
	bytesRead *prometheus.CounterVec
	returned  *prometheus.CounterVec
}

func newMetrics() *metrics {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "audit", Subsystem: "query_store", Name: name, Help: help}, []string{"kind"})
	}
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "audit", Subsystem: "query_store", Name: "query_duration_seconds",
			Help: "Time from sending a query to ClickHouse to the end of its rows, by kind of request.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}, []string{"kind"}),
		rowsRead:  counter("rows_read_total", "Rows that ClickHouse has read for queries, by kind of request: what a query costs."),
		bytesRead: counter("bytes_read_total", "Bytes, uncompressed, that ClickHouse has read for queries, by kind of request."),
		returned:  counter("rows_returned_total", "Events that ClickHouse has returned, by kind of request: what a query was worth."),
	}
	for _, k := range []kind{kindPage, kindEvent, kindFeed, kindExport} {
		m.seconds.WithLabelValues(string(k))
		m.rowsRead.WithLabelValues(string(k))
		m.bytesRead.WithLabelValues(string(k))
		m.returned.WithLabelValues(string(k))
	}
	return m
}

// register makes the metrics and those of the breaker known to reg.
func (r *Reader) register(reg prometheus.Registerer) error {
	all := []prometheus.Collector{r.metrics.seconds, r.metrics.rowsRead, r.metrics.bytesRead, r.metrics.returned}
	for _, state := range []gobreaker.State{gobreaker.StateClosed, gobreaker.StateHalfOpen, gobreaker.StateOpen} {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "audit", Subsystem: "query_store", Name: "breaker_state", ConstLabels: prometheus.Labels{"state": state.String()},
			Help: "Circuit breaker of the event store: 1 for the state it is in. closed: all is well; open: requests are refused at once; half-open: trying.",
		}, func() float64 {
			if r.breaker.State() == state {
				return 1
			}
			return 0
		}))
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register the metrics of the event store: %w", err)
		}
	}
	return nil
}

// progress counts what ClickHouse says it has read since it last said so.
func (m *metrics) progress(k kind, p *chgo.Progress) {
	m.rowsRead.WithLabelValues(string(k)).Add(float64(p.Rows))
	m.bytesRead.WithLabelValues(string(k)).Add(float64(p.Bytes))
}

func (m *metrics) took(k kind, d time.Duration) {
	m.seconds.WithLabelValues(string(k)).Observe(d.Seconds())
}
