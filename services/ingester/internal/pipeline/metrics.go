package pipeline

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics has no label for tenants: there may be any number of them.
type metrics struct {
	batchEvents     prometheus.Histogram
	insertSeconds   prometheus.Histogram
	rows            prometheus.Counter
	deadLetters     prometheus.Counter
	skippedRows     prometheus.Counter
	skippedMessages prometheus.Counter
	inDoubt         prometheus.Counter
	lost            prometheus.Counter
	redelivered     redelivered
	retries         *prometheus.CounterVec

	unread atomic.Pointer[Unread] // as of a moment ago
}

func newMetrics(reg prometheus.Registerer, p *Pipeline) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "audit", Subsystem: "ingester", Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "audit", Subsystem: "ingester", Name: name, Help: help, Buckets: buckets})
		reg.MustRegister(h)
		return h
	}
	gauge := func(name, help string, fn func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "audit", Subsystem: "ingester", Name: name, Help: help}, fn))
	}
	m := &metrics{
		batchEvents:     histogram("batch_events", "Messages in each batch.", prometheus.ExponentialBuckets(1, 4, 9)),
		insertSeconds:   histogram("insert_duration_seconds", "Duration of each insert of a block, whatever its outcome.", prometheus.ExponentialBuckets(0.001, 2, 16)),
		rows:            counter("rows_total", "Rows committed."),
		deadLetters:     counter("dead_letters_total", "Messages sent to the dead letters."),
		skippedRows:     counter("rows_already_there_total", "Rows that were found in the table when an insert in doubt was settled, and not sent again."),
		skippedMessages: counter("messages_skipped_total", "Messages delivered that another process drives or that were taken in before."),
		inDoubt:         counter("inserts_in_doubt_total", "Inserts whose outcome had to be read back."),
		lost:            counter("partitions_lost_total", "Partitions let go of because another process drives them, or may."),
		redelivered:     newRedelivered(reg),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "audit", Subsystem: "ingester", Name: "retries_total",
			Help: "Attempts that failed and were or will be made again."}, []string{"what"}),
	}
	m.unread.Store(&Unread{})
	reg.MustRegister(m.retries)
	gauge("partitions_driven", "Partitions this process drives and reads.", func() float64 { return float64(len(p.Driven())) })
	gauge("memory_bytes", "Rows and dead letters in memory, in bytes.", func() float64 { return float64(p.memory.inUse()) })
	gauge("lag_messages", "Messages of this process's partitions that are not yet in the table.", func() float64 { return float64(p.lagMessages()) })
	gauge("lag_seconds", "Age of the oldest message of this process's partitions that is not yet in the table.", func() float64 { return p.lag(time.Now()).Seconds() })
	return m
}

// redelivered counts messages that are read from the stream once more, by why.
type redelivered struct {
	// recovery: of a batch of an earlier run that was not all in the table. reader: the reader began anew, before what was taken in. forgotten: they
	// were in memory when their partition was let go of.
	recovery, reader, forgotten prometheus.Counter
}

func newRedelivered(reg prometheus.Registerer) redelivered {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "audit", Subsystem: "ingester", Name: "redeliveries_total",
		Help: "Messages read from the stream once more: to finish a batch of an earlier run (recovery), because the reader began anew (reader), " +
			"because they were in memory when their partition was let go of (forgotten)."}, []string{"why"})
	reg.MustRegister(v)
	return redelivered{recovery: v.WithLabelValues("recovery"), reader: v.WithLabelValues("reader"), forgotten: v.WithLabelValues("forgotten")}
}

// Reading says how many of the wanted partitions are recovered and read, for a readiness check.
func (p *Pipeline) Reading() (reading, wanted int) { return len(p.Driven()), len(p.members.Wanted()) }
