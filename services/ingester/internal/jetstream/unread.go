package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/pipeline"
)

// countIdle is how long the server keeps a consumer that was made to count, should it not be told to remove it.
const countIdle = 5 * time.Second

// Unread implements pipeline.Source.
func (s *Source) Unread(ctx context.Context, reading []int, after map[int]uint64) (u pipeline.Unread, err error) {
	stream, err := s.lookup(ctx)
	if err != nil {
		return u, fmt.Errorf("open stream %s: %w", events.StreamAudit, err)
	}
	s.mu.Lock()
	readers := s.readers
	s.mu.Unlock()
	for _, r := range readers {
		// What a driver has let go of meanwhile is still delivered, and nobody's.
		mine := slices.DeleteFunc(slices.Clone(r.partitions), func(p int) bool { return !slices.Contains(reading, p) })
		if err := s.count(ctx, stream, r.at.Load()+1, mine, &u); err != nil {
			return u, err
		}
	}
	for p, seq := range after {
		if err := s.count(ctx, stream, seq+1, []int{p}, &u); err != nil {
			return u, err
		}
	}
	return u, nil
}

// count adds the messages of the partitions from a sequence on. For all partitions that is arithmetic: nothing is ever taken out of the middle of the
// stream. Else the server counts.
func (s *Source) count(ctx context.Context, stream jetstream.Stream, from uint64, partitions []int, u *pipeline.Unread) error {
	state := stream.CachedInfo().State
	if from = max(from, state.FirstSeq); from > state.LastSeq || state.Msgs == 0 || len(partitions) == 0 {
		return nil
	}
	n, filters := state.LastSeq-from+1, []string{events.SubjectLog}
	if len(partitions) < s.shape.Partitions {
		filters = filters[:0]
		for _, p := range partitions {
			filters = append(filters, ofPartition(p))
		}
		var err error
		if n, err = s.pending(ctx, stream, from, filters); err != nil || n == 0 {
			return err
		}
	}
	u.Messages += n
	for _, filter := range filters {
		m, found, err := next(ctx, s.js.Conn(), from, filter)
		if err != nil {
			return err
		}
		if found && (u.Oldest.IsZero() || m.Time.Before(u.Oldest)) {
			u.Oldest = m.Time
		}
	}
	return nil
}

// pending is how many messages from a sequence on the server has for a new consumer.
func (s *Source) pending(ctx context.Context, stream jetstream.Stream, from uint64, filters []string) (uint64, error) {
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		FilterSubjects:    filters,
		AckPolicy:         jetstream.AckNonePolicy,
		HeadersOnly:       true,
		InactiveThreshold: countIdle,
		MemoryStorage:     true,
		Replicas:          1,
	})
	if err != nil {
		return 0, fmt.Errorf("count from sequence %d: %w", from, err)
	}
	info := consumer.CachedInfo()
	if err := stream.DeleteConsumer(ctx, info.Name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, fmt.Errorf("remove a consumer that has counted: %w", err)
	}
	return info.NumPending, nil
}
