package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/pkg/service/repartition"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/scan"
)

// closedSubject is what the stream takes while it is closed: nobody publishes there.
const closedSubject = "audit.closed"

// Repartition returns the change of partitions that is under way, nil for none.
func Repartition(ctx context.Context, js jetstream.JetStream) (*repartition.State, error) {
	stream, err := js.Stream(ctx, events.StreamAudit)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", events.StreamAudit, err)
	}
	return repartition.Of(stream.CachedInfo().Config.Metadata)
}

// SetRepartition writes down how far a change is. In phase Closed the stream then takes nothing: producers get no acknowledgement, as from a server
// that is away, and publish again. In every other one, and when state is nil, it sorts what comes by s.Partitions.
func (s Shape) SetRepartition(ctx context.Context, js jetstream.JetStream, state *repartition.State) error {
	stream, err := js.Stream(ctx, events.StreamAudit)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", events.StreamAudit, err)
	}
	cfg := stream.CachedInfo().Config
	if cfg.Metadata, err = repartition.Put(cfg.Metadata, state); err != nil {
		return fmt.Errorf("write down the change of partitions: %w", err)
	}
	open := s.auditConfig(0)
	cfg.Subjects, cfg.SubjectTransform = open.Subjects, open.SubjectTransform
	if state != nil && state.Phase == repartition.Closed {
		cfg.Subjects, cfg.SubjectTransform = []string{closedSubject}, nil
	}
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		return fmt.Errorf("change stream %s: %w", events.StreamAudit, err)
	}
	return nil
}

// Ingesters are the names of those whose heartbeat counts. The leader of the bucket is asked, and not the server of a reader, which may have missed the first heartbeat of one.
func Ingesters(ctx context.Context, js jetstream.JetStream) ([]string, error) {
	const bucket, prefix = bucketPrefix + BucketIngesters, "$KV." + BucketIngesters + "."
	stream, err := js.Stream(ctx, bucket)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", BucketIngesters, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, fmt.Errorf("list bucket %s: %w", BucketIngesters, err)
	}
	var names []string
	for subject := range info.State.Subjects {
		m, found, err := scan.Last(ctx, js.Conn(), bucket, subject)
		if err != nil {
			return nil, fmt.Errorf("list bucket %s: %w", BucketIngesters, err)
		}
		if found && !m.Deleted() {
			names = append(names, strings.TrimPrefix(subject, prefix))
		}
	}
	slices.Sort(names)
	return names, nil
}

// LedgerEnd is the last sequence of the ledger's stream.
func LedgerEnd(ctx context.Context, js jetstream.JetStream) (uint64, error) {
	s, err := js.Stream(ctx, events.StreamLedger)
	if err != nil {
		return 0, fmt.Errorf("open stream %s: %w", events.StreamLedger, err)
	}
	return s.CachedInfo().State.LastSeq, nil
}

// Forget makes ledger and positions anew, empty, and removes the messages up to a sequence, all of which must be in the table. The new ledger counts from
// ledgerFirst on, behind the old one, so that a writer that knows the old one is refused by the new one. It can be done over after a failure.
func (s Shape) Forget(ctx context.Context, js jetstream.JetStream, through, ledgerFirst uint64, log *slog.Logger) error {
	for _, name := range []string{events.StreamLedger, "KV_" + ledger.BucketPositions} {
		if err := js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("delete stream %s: %w", name, err)
		}
	}
	if err := s.setupLedger(ctx, js, ledgerFirst, log); err != nil {
		return err
	}
	stream, err := js.Stream(ctx, events.StreamAudit)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", events.StreamAudit, err)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(through+1)); err != nil {
		return fmt.Errorf("trim stream %s to sequence %d: %w", events.StreamAudit, through+1, err)
	}
	return nil
}
