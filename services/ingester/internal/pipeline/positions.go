package pipeline

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"example.com/auditlog/services/ingester/internal/ledger"
)

// positionPause is the least time between two rounds of writing positions.
const positionPause = 100 * time.Millisecond

// positionWriter writes positions some time after they are set, each partition's newest only. They are hints: one that cannot be written is
// tried again with the next round.
type positionWriter struct {
	store   Positions
	log     *slog.Logger
	metrics *metrics
	wake    chan struct{}

	writing sync.Mutex // held during a round: the last one, at the end, waits for the one before it

	mu    sync.Mutex
	dirty map[int]ledger.Position
}

func newPositionWriter(store Positions, log *slog.Logger, m *metrics) *positionWriter {
	return &positionWriter{store: store, log: log, metrics: m, wake: make(chan struct{}, 1), dirty: map[int]ledger.Position{}}
}

func (w *positionWriter) set(partition int, pos ledger.Position) {
	w.mu.Lock()
	w.dirty[partition] = pos
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// get returns what is stored.
func (w *positionWriter) get(ctx context.Context, partition int) (ledger.Position, error) {
	return w.store.Get(ctx, partition)
}

func (w *positionWriter) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		w.flush(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(positionPause):
		}
	}
}

// flush writes everything that is set and not yet written.
func (w *positionWriter) flush(ctx context.Context) {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	batch := w.dirty
	w.dirty = map[int]ledger.Position{}
	w.mu.Unlock()
	for partition, pos := range batch {
		err := w.store.Put(ctx, partition, pos)
		if err == nil {
			continue
		}
		if ctx.Err() == nil {
			w.log.WarnContext(ctx, "could not write the position, trying again", slog.Int("partition", partition), slog.Any("error", err))
		}
		w.metrics.retries.WithLabelValues("write the position").Inc()
		w.mu.Lock()
		if _, newer := w.dirty[partition]; !newer {
			w.dirty[partition] = pos
		}
		w.mu.Unlock()
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}
