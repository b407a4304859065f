package app

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/jetstream"
)

// streamStateEvery is how often the stream is asked how full it is.
const streamStateEvery = 5 * time.Second

// streamState is how full the streams are and whether events can still be stored, as metrics.
type streamState struct {
	js                             natsjs.JetStream
	log                            *slog.Logger
	bytes, maxBytes, messages, dlq atomic.Int64
	fault                          atomic.Pointer[error] // why the stream cannot be written; nil while it can, as far as is known
}

func newStreamState(js natsjs.JetStream, partitions int, log *slog.Logger, reg prometheus.Registerer) *streamState {
	s := &streamState{js: js, log: log}
	gauge := func(name, help string, fn func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "audit", Subsystem: "stream", Name: name, Help: help}, fn))
	}
	gauge("partitions", "Partitions of the stream, AUDIT_PARTITIONS: as many must be driven by all ingesters together.", func() float64 { return float64(partitions) })
	gauge("bytes", "Bytes the stream of events takes.", func() float64 { return float64(s.bytes.Load()) })
	gauge("max_bytes", "Bytes the stream of events may take; -1 when the disk alone bounds it.", func() float64 { return float64(s.maxBytes.Load()) })
	gauge("messages", "Messages in the stream of events.", func() float64 { return float64(s.messages.Load()) })
	gauge("dead_letters", "Messages in the stream of dead letters.", func() float64 { return float64(s.dlq.Load()) })
	gauge("writable", "0 when NATS could not write to its disk and stores no more events until it is restarted.", func() float64 {
		if s.writable() != nil {
			return 0
		}
		return 1
	})
	gauge("fill_ratio", "How full the stream of events is, from 0 to 1; at 1 it refuses publishes. 0 without a limit.", func() float64 {
		if limit := s.maxBytes.Load(); limit > 0 {
			return float64(s.bytes.Load()) / float64(limit)
		}
		return 0
	})
	return s
}

func (s *streamState) run(ctx context.Context) {
	ticker := time.NewTicker(streamStateEvery)
	defer ticker.Stop()
	for {
		s.ask(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (s *streamState) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, streamStateEvery)
	defer cancel()
	if stream, err := s.js.Stream(ctx, events.StreamAudit); err == nil {
		info := stream.CachedInfo()
		s.bytes.Store(int64(info.State.Bytes))   //nolint:gosec // bounded by a disk
		s.messages.Store(int64(info.State.Msgs)) //nolint:gosec // bounded by a disk
		s.maxBytes.Store(info.Config.MaxBytes)
		defer func() { s.note(ctx, jetstream.Writable(ctx, stream)) }() // last: it may wait for an answer as long as ctx lasts
	}
	if stream, err := s.js.Stream(ctx, events.StreamDLQ); err == nil {
		s.dlq.Store(int64(stream.CachedInfo().State.Msgs)) //nolint:gosec // bounded by a disk
	}
}

// note takes in whether the stream can be written, and says so when that has changed.
func (s *streamState) note(ctx context.Context, err error) {
	broken := errors.Is(err, jetstream.ErrUnwritable)
	switch was := s.writable() != nil; {
	case broken && !was:
		s.fault.Store(&err)
		s.log.ErrorContext(ctx, "producers get no acknowledgements", slog.String("stream", events.StreamAudit), slog.Any("error", err))
	case err == nil && was:
		s.fault.Store(nil)
		s.log.InfoContext(ctx, "the stream can be written again", slog.String("stream", events.StreamAudit))
	}
}

// writable is nil, or why NATS stores no more events. What is stored is read all the same.
func (s *streamState) writable() error {
	if err := s.fault.Load(); err != nil {
		return *err
	}
	return nil
}
