// Package jetstream is the ingester's side of NATS: the streams and buckets it needs, reading the stream, dead letters, trimming.
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/pkg/service/repartition"
	"example.com/auditlog/services/ingester/internal/control"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/pipeline"
)

// BucketIngesters is the key-value bucket of the ingesters' heartbeats.
const BucketIngesters = "audit_ingesters"

// Limits of the streams.
const (
	// MaxMessageBytes bounds a message of the stream AUDIT, headers included: 64 KiB of metadata, 16 KiB of reasoning and the texts, every
	// character of which may be written as a six-byte escape, with room to spare. What is larger is refused at publishing.
	MaxMessageBytes = 256 << 10
	// duplicateWindow is how long the stream AUDIT remembers message ids, for publishers that try again. Identity beyond it is the row's.
	duplicateWindow = 2 * time.Minute
	// deadLetterWindow is how long AUDIT_DLQ remembers message ids: a batch that is finished later than that sends its dead letters twice.
	deadLetterWindow = 7 * 24 * time.Hour
	// remakeGap is how far behind the last known sequence a stream begins that is made in place of a lost one.
	remakeGap = 1 << 32
	// clockShift makes a first sequence of the time in seconds: no stream that took less than a million messages a second since 1970 is there.
	clockShift = 20
	// requestTimeout bounds a request to the server, which answers within milliseconds. A request that was sent while the server went down is
	// never answered, so this is also how long that costs.
	requestTimeout = 2 * time.Second
	// tableTimeout bounds the question to a table that may be away.
	tableTimeout = 10 * time.Second
)

// Shape is what an operator decides about the streams.
type Shape struct {
	// Partitions is that of the stream; SetRepartition alone changes it.
	Partitions int
	Replicas   int
	// MaxBytes bounds the stream AUDIT; -1 for the disk alone. A full stream refuses publishes.
	MaxBytes int64
	// HeartbeatTTL is how long an ingester that is not heard of counts as alive.
	HeartbeatTTL time.Duration
	// TableLast returns the highest sequence that has a row in the table. It is asked when the ledger is empty; nil stands for an empty table.
	TableLast func(context.Context) (uint64, error)
}

// auditConfig is the stream of events. firstSeq is where a new stream begins to count.
func (s Shape) auditConfig(firstSeq uint64) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:               events.StreamAudit,
		Description:        "Audit events, the source of truth",
		Subjects:           []string{events.SubjectEvents},
		SubjectTransform:   &jetstream.SubjectTransformConfig{Source: events.SubjectEvents, Destination: s.transform()},
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardNew,
		MaxBytes:           s.MaxBytes,
		MaxMsgs:            -1,
		MaxMsgSize:         MaxMessageBytes,
		Storage:            jetstream.FileStorage,
		Replicas:           s.Replicas,
		Duplicates:         duplicateWindow,
		DenyDelete:         true,
		AllowDirect:        true,
		AllowAtomicPublish: true,
		FirstSeq:           firstSeq,
	}
}

// transform is how the server assigns a tenant to a partition.
func (s Shape) transform() string {
	return fmt.Sprintf("audit.log.{{partition(%d,1)}}.{{wildcard(1)}}", s.Partitions)
}

func (s Shape) deadLetterConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        events.StreamDLQ,
		Description: "Messages that are no events, with the reason in headers",
		Subjects:    []string{events.SubjectDLQ},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		Storage:     jetstream.FileStorage,
		Replicas:    s.Replicas,
		Duplicates:  deadLetterWindow,
		MaxBytes:    -1,
		DenyDelete:  true,
		AllowDirect: true,
	}
}

// ledgerConfig has no direct get: reads must see the newest entry, which the leader alone is sure to have.
func (s Shape) ledgerConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        events.StreamLedger,
		Description: "Borders of the batches written to the table",
		Subjects:    []string{events.SubjectLedger},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		Storage:     jetstream.FileStorage,
		Compression: jetstream.S2Compression,
		Replicas:    s.Replicas,
		DenyDelete:  true,
		DenyPurge:   true,
		MaxBytes:    -1,
	}
}

// controlConfig has no direct get, as the ledger's.
func (s Shape) controlConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        events.StreamControl,
		Description: "Decisions about events that are stored",
		Subjects:    []string{events.SubjectControl},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		Storage:     jetstream.FileStorage,
		Replicas:    s.Replicas,
		DenyDelete:  true,
		DenyPurge:   true,
		MaxBytes:    -1,
	}
}

// SetupControl makes the stream of decisions, or checks it, and reads it. It is not part of Setup because it needs ClickHouse: that the stream is not there
// means nothing was decided yet only when the copy there is empty too. Else, and when either has lost its end, the error is a control.ErrLost.
func SetupControl(ctx context.Context, js jetstream.JetStream, s Shape, copies control.Copy, log *slog.Logger) (*control.Log, error) {
	if err := control.Check(ctx, js, copies); err != nil {
		return nil, err
	}
	if err := ensure(ctx, js, s.controlConfig(), log); err != nil {
		return nil, err
	}
	l := control.New(js, copies)
	_, err := l.Load(ctx)
	return l, err
}

// RepairControl makes the stream of decisions anew when it is lost, writes what it lacks from the copy, and returns how many decisions that was.
func RepairControl(ctx context.Context, js jetstream.JetStream, s Shape, copies control.Copy, log *slog.Logger) (int, error) {
	if err := ensure(ctx, js, s.controlConfig(), log); err != nil {
		return 0, err
	}
	return control.Repair(ctx, js, copies)
}

// Setup makes what is missing of the streams and buckets and checks the rest. A stream of another shape is an error of class fatal that says
// what differs. Without a deadline in ctx each request has one of its own.
func Setup(ctx context.Context, js jetstream.JetStream, s Shape, log *slog.Logger) error {
	if err := s.setupLedger(ctx, js, 0, log); err != nil {
		return err
	}
	if err := ensure(ctx, js, s.deadLetterConfig(), log); err != nil {
		return err
	}
	heartbeats := jetstream.KeyValueConfig{Bucket: BucketIngesters, Description: "Heartbeats of the ingesters", Storage: jetstream.FileStorage, Replicas: s.Replicas, TTL: s.HeartbeatTTL}
	if _, err := js.CreateOrUpdateKeyValue(ctx, heartbeats); err != nil {
		return fmt.Errorf("make bucket %s: %w", heartbeats.Bucket, err)
	}
	return s.setupAudit(ctx, js, log)
}

// setupLedger makes or checks what is written down of batches. firstSeq is where a new ledger begins to count.
func (s Shape) setupLedger(ctx context.Context, js jetstream.JetStream, firstSeq uint64, log *slog.Logger) error {
	entries := s.ledgerConfig()
	entries.FirstSeq = firstSeq
	if err := ensure(ctx, js, entries, log); err != nil {
		return err
	}
	positions := jetstream.KeyValueConfig{Bucket: ledger.BucketPositions, Description: "Newest committed batch of each partition", Storage: jetstream.FileStorage, Replicas: s.Replicas}
	if _, err := js.CreateOrUpdateKeyValue(ctx, positions); err != nil {
		return fmt.Errorf("make bucket %s: %w", positions.Bucket, err)
	}
	return nil
}

// setupAudit makes the stream of events. When ledger or table know of sequences, a stream was there before and is gone: the new one counts on
// far behind them, so that no new event takes the place of an old one, nor of one that was read and is on its way.
func (s Shape) setupAudit(ctx context.Context, js jetstream.JetStream, log *slog.Logger) error {
	known, firstSeq, err := s.known(ctx, js, log)
	if err != nil {
		return err
	}
	if err := ensure(ctx, js, s.auditConfig(firstSeq), log); err != nil {
		return err
	}
	stream, err := js.Stream(ctx, events.StreamAudit)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", events.StreamAudit, err)
	}
	if last := stream.CachedInfo().State.LastSeq; last < known {
		return fmt.Errorf("%w: stream %s ends at sequence %d, but batches up to %d were written from it: it was made anew or restored to an older state. "+
			"Stop the producers, restore the stream, or save what it holds, delete it and start again: a new one is made that counts on behind %d",
			pipeline.ErrFatal, events.StreamAudit, last, known, known)
	}
	return nil
}

// known returns the highest sequence that was ever read, as far as ledger and table tell, and where a new stream begins to count.
func (s Shape) known(ctx context.Context, js jetstream.JetStream, log *slog.Logger) (known, firstSeq uint64, err error) {
	l, err := ledger.Open(ctx, js)
	if err != nil {
		return 0, 0, err
	}
	for p := range s.Partitions {
		last, err := l.Last(ctx, p)
		if err != nil {
			return 0, 0, err
		}
		known = max(known, last.LastSeq)
	}
	if known == 0 && s.TableLast != nil {
		// No ledger: a new system, or NATS has lost its disk and the table has not.
		tctx, cancel := context.WithTimeout(ctx, tableTimeout)
		defer cancel()
		if known, err = s.TableLast(tctx); err != nil {
			log.WarnContext(ctx, "cannot ask the table which sequences it has; a new stream begins at one that no earlier stream can have reached",
				slog.Any("error", err))
			return 0, uint64(time.Now().Unix()) << clockShift, nil //nolint:gosec // the time is positive
		}
	}
	if known == 0 {
		return 0, 0, nil
	}
	return known, known + remakeGap, nil
}

// ensure makes the stream, or checks that the one that is there has the same shape and brings what may change up to date.
func ensure(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig, log *slog.Logger) error {
	stream, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if _, err = js.CreateStream(ctx, want); err == nil {
			log.InfoContext(ctx, "made stream", slog.String("stream", want.Name), slog.Uint64("first_seq", max(1, want.FirstSeq)))
			return nil
		}
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return fmt.Errorf("make stream %s: %w", want.Name, err)
		}
		stream, err = js.Stream(ctx, want.Name) // somebody was faster
	}
	if err != nil {
		return fmt.Errorf("open stream %s: %w", want.Name, err)
	}
	have := stream.CachedInfo().Config
	if err := underway(have); err != nil {
		return err
	}
	if diffs := differences(have, want); len(diffs) > 0 {
		return fmt.Errorf("%w: stream %s is not as this ingester needs it: %w. Either change its settings here to those of the stream, "+
			"or move the stream's content to one made by this ingester", pipeline.ErrFatal, want.Name, errors.Join(diffs...))
	}
	if have.MaxBytes == want.MaxBytes && have.Replicas == want.Replicas {
		return nil
	}
	have.MaxBytes, have.Replicas = want.MaxBytes, want.Replicas
	if _, err := js.UpdateStream(ctx, have); err != nil {
		return fmt.Errorf("change limits of stream %s: %w", want.Name, err)
	}
	log.InfoContext(ctx, "changed limits of stream", slog.String("stream", want.Name), slog.Int64("max_bytes", want.MaxBytes), slog.Int("replicas", want.Replicas))
	return nil
}

// underway returns an error of class fatal when the number of partitions is being changed.
func underway(cfg jetstream.StreamConfig) error {
	change, err := repartition.Of(cfg.Metadata)
	if err == nil && change != nil {
		err = repartition.UnderwayError{State: *change}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", pipeline.ErrFatal, err)
	}
	return nil
}

// CheckPartitions returns an error of class fatal when the stream was made with another number of partitions, or when that is being changed; none for one that is not there.
func CheckPartitions(ctx context.Context, js jetstream.JetStream, s Shape) error {
	stream, err := js.Stream(ctx, events.StreamAudit)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open stream %s: %w", events.StreamAudit, err)
	}
	if err := underway(stream.CachedInfo().Config); err != nil {
		return err
	}
	if have := stream.CachedInfo().Config.SubjectTransform; have == nil || have.Destination != s.transform() {
		return fmt.Errorf("%w: AUDIT_PARTITIONS is %d, but stream %s was not made with it: set it to what ingesters have", pipeline.ErrFatal, s.Partitions, events.StreamAudit)
	}
	return nil
}

// differences lists what must be equal and is not.
func differences(have, want jetstream.StreamConfig) (diffs []error) {
	compare := func(what string, have, want any) {
		if h, w := fmt.Sprint(have), fmt.Sprint(want); h != w {
			diffs = append(diffs, fmt.Errorf("%s is %s, must be %s", what, h, w))
		}
	}
	transform := func(c jetstream.StreamConfig) string {
		if c.SubjectTransform == nil {
			return "none"
		}
		return c.SubjectTransform.Source + " to " + c.SubjectTransform.Destination
	}
	compare("subjects", have.Subjects, want.Subjects)
	compare("subject transform (AUDIT_PARTITIONS)", transform(have), transform(want))
	compare("retention", have.Retention, want.Retention)
	compare("discard", have.Discard, want.Discard)
	compare("max age", have.MaxAge, want.MaxAge)
	compare("max messages", have.MaxMsgs, unlimited(want.MaxMsgs))
	compare("max messages per subject", have.MaxMsgsPerSubject, unlimited(want.MaxMsgsPerSubject))
	compare("storage", have.Storage, want.Storage)
	compare("persist mode", have.PersistMode, want.PersistMode)
	compare("deny delete", have.DenyDelete, want.DenyDelete)
	compare("deny purge", have.DenyPurge, want.DenyPurge)
	compare("allow direct", have.AllowDirect, want.AllowDirect)
	compare("allow atomic publish", have.AllowAtomicPublish, want.AllowAtomicPublish)
	compare("rollup", have.AllowRollup, false)
	return diffs
}

// unlimited is how the server writes a limit of 0.
func unlimited(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}
