package jetstream

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/pipeline"
	"example.com/auditlog/services/ingester/internal/scan"
)

// Trim removes from the stream what is in the table and older than retention, and returns the sequence of the first message that is left.
// committed says how far each partition is in the table. Age counts back from the newest message, or from now when that is earlier, so
// that a clock that jumps ahead does not empty the stream.
func (s *Source) Trim(ctx context.Context, committed pipeline.Positions, retention time.Duration) (uint64, error) {
	stream, err := s.open(ctx)
	if err != nil {
		return 0, err
	}
	state := stream.CachedInfo().State
	if state.Msgs == 0 {
		return state.FirstSeq, nil
	}
	keep, err := FirstOpen(ctx, s.js, s.shape.Partitions, func(p int) (uint64, error) {
		pos, err := committed.Get(ctx, p)
		return pos.LastSeq, err
	})
	if err != nil {
		return 0, err
	}
	newest := state.LastTime
	if now := s.Now(); now.Before(newest) {
		newest = now
	}
	keep, err = scan.Since(ctx, s.js.Conn(), events.StreamAudit, events.SubjectLog, state.FirstSeq, keep, newest.Add(-retention))
	if err != nil || keep <= state.FirstSeq {
		return state.FirstSeq, err
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(keep)); err != nil {
		return state.FirstSeq, fmt.Errorf("trim stream %s to sequence %d: %w", events.StreamAudit, keep, err)
	}
	return keep, nil
}
