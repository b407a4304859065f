package jetstream

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/pipeline"
	"example.com/auditlog/services/ingester/internal/scan"
)

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

// count adds the messages of the partitions from a sequence on.
func (s *Source) count(ctx context.Context, stream jetstream.Stream, from uint64, partitions []int, u *pipeline.Unread) error {
	state := stream.CachedInfo().State
	if from = max(from, state.FirstSeq); from > state.LastSeq || state.Msgs == 0 || len(partitions) == 0 {
		return nil
	}
	n, oldest, err := s.waiting(ctx, from, state.LastSeq, partitions)
	if err != nil || n == 0 {
		return err
	}
	u.Messages += n
	if u.Oldest.IsZero() || oldest.Before(u.Oldest) {
		u.Oldest = oldest
	}
	return nil
}

// waiting counts the messages of the partitions from a sequence on, and says when the first of them came. For all partitions that is arithmetic up to last:
// nothing is ever taken out of the middle of the stream. Else the server counts.
func (s *Source) waiting(ctx context.Context, from, last uint64, partitions []int) (n uint64, oldest time.Time, err error) {
	if len(partitions) == s.shape.Partitions {
		m, found, err := scan.Next(ctx, s.js.Conn(), events.StreamAudit, from, events.SubjectLog)
		if err != nil || !found {
			return 0, oldest, err
		}
		return last - from + 1, m.Time, nil
	}
	subjects := make([]string, len(partitions))
	for i, p := range partitions {
		subjects[i] = events.PartitionSubject(p)
	}
	return scan.Count(ctx, s.js, events.StreamAudit, subjects, from)
}
