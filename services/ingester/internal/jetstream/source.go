package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/pipeline"
	"example.com/auditlog/services/ingester/internal/scan"
)

const (
	// filterShare: a process that drives at most this part of the partitions reads each of them through a filter of its own. Else one reader
	// without filter serves all, and what is not for us is skipped: measured on a million messages, 440,000 a second against 224,000.
	filterShare = 8
)

// Source reads the stream AUDIT. It implements pipeline.Source.
type Source struct {
	// Traced says whether messages are looked at for a producer's span. It is set before the first Read.
	Traced bool
	// Now is the clock that trimming looks at; time.Now unless a test sets another before the first Trim.
	Now func() time.Time

	js    jetstream.JetStream
	nc    *nats.Conn // that messages come by
	shape Shape
	log   *slog.Logger

	mu      sync.Mutex
	made    time.Time // when the stream was made
	readers []*reader // those of the Read that runs
}

// NewSource returns a Source of the stream, which Setup has made or checked. Messages come by a connection of their own: an answer must not queue
// behind megabytes of them. It may be one without headers, unless Traced is set.
func NewSource(js jetstream.JetStream, messages *nats.Conn, s Shape, log *slog.Logger) *Source {
	return &Source{Now: time.Now, js: js, nc: messages, shape: s, log: log}
}

// Read implements pipeline.Source.
func (s *Source) Read(ctx context.Context, after map[int]uint64, deliver func(int, pipeline.Message) bool) error {
	stream, err := s.open(ctx)
	if err != nil {
		return err
	}
	end := stream.CachedInfo().State.LastSeq + 1
	starts := make(map[int]uint64, len(after))
	least := end
	for p, seq := range after {
		// An idle partition must not make us read the stream from its last message on.
		m, found, err := scan.Next(ctx, s.js.Conn(), events.StreamAudit, seq+1, events.PartitionSubject(p))
		if err != nil {
			return err
		}
		starts[p] = max(end, seq+1)
		if found {
			starts[p] = min(m.Seq, starts[p])
		}
		least = min(least, starts[p])
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var readers []*reader
	defer func() { s.close(ctx, stream, readers) }()
	start := func(from uint64, filter string, partitions ...int) error {
		r := &reader{deliver: deliver, fail: cancel, partitions: partitions, traced: s.Traced}
		readers = append(readers, r)
		return r.start(ctx, s.nc, stream, from, filter)
	}
	if len(after)*filterShare > s.shape.Partitions {
		err = start(least, "", slices.Collect(maps.Keys(after))...)
	} else {
		for p, from := range starts {
			err = errors.Join(err, start(from, events.PartitionSubject(p), p))
		}
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.readers = readers
	s.mu.Unlock()
	s.log.DebugContext(ctx, "reading the stream", slog.Uint64("from", least), slog.Int("partitions", len(after)), slog.Int("readers", len(readers)))
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Origin implements pipeline.Source.
func (s *Source) Origin(ctx context.Context) (uint64, error) {
	stream, err := s.open(ctx)
	if err != nil {
		return 0, err
	}
	return max(1, stream.CachedInfo().Config.FirstSeq), nil
}

// open finds the stream; one that is gone is made anew.
func (s *Source) open(ctx context.Context) (jetstream.Stream, error) {
	stream, err := s.lookup(ctx)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("open stream %s: %w", events.StreamAudit, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && (s.made.IsZero() || s.made.Equal(stream.CachedInfo().Created)) {
		s.made = stream.CachedInfo().Created
		return stream, nil
	}
	s.log.ErrorContext(ctx, "the stream was deleted; events that were not yet in the table are lost", slog.String("stream", events.StreamAudit))
	if err := Setup(ctx, s.js, s.shape, s.log); err != nil {
		return nil, err
	}
	if stream, err = s.lookup(ctx); err != nil {
		return nil, fmt.Errorf("open stream %s: %w", events.StreamAudit, err)
	}
	s.made = stream.CachedInfo().Created
	return stream, nil
}

func (s *Source) lookup(ctx context.Context) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return s.js.Stream(ctx, events.StreamAudit)
}

// close ends the readers; when it returns none of them delivers any more.
func (s *Source) close(ctx context.Context, stream jetstream.Stream, readers []*reader) {
	s.mu.Lock()
	s.readers = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	for _, r := range readers {
		if r.stop(); r.name == "" {
			continue
		}
		if err := stream.DeleteConsumer(ctx, r.name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			s.log.DebugContext(ctx, "left a consumer behind, the server removes it when it is idle", slog.String("consumer", r.name), slog.Any("error", err))
		}
	}
}

// Range implements pipeline.Source. Both borders must be messages of the partition.
func (s *Source) Range(ctx context.Context, partition int, first, last uint64, fn func(pipeline.Message) error) error {
	for _, seq := range []uint64{first, last} {
		m, found, err := scan.Next(ctx, s.js.Conn(), events.StreamAudit, seq, events.PartitionSubject(partition))
		if err != nil {
			return err
		}
		if !found || m.Seq != seq {
			return fmt.Errorf("%w: sequence %d of partition %d", pipeline.ErrGone, seq, partition)
		}
	}
	stream, err := s.open(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &reader{fail: cancel}
	r.deliver = func(_ int, m pipeline.Message) bool {
		if m.Seq <= last {
			if err := fn(m); err != nil {
				cancel(err)
				return false
			}
		}
		if m.Seq >= last {
			cancel(errDone)
			return false
		}
		return true
	}
	defer func() { s.close(ctx, stream, []*reader{r}) }()
	if err := r.start(ctx, s.nc, stream, first, events.PartitionSubject(partition)); err != nil {
		return err
	}
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, errDone) {
		return err
	}
	return nil
}

// errDone ends a Range that has reached its end.
var errDone = errors.New("done")
