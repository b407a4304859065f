package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
)

// partitionFunc is the number of partitions in the stream's subject transform.
var partitionFunc = regexp.MustCompile(`partition\(\s*(\d+)\s*,`)

// checkPartitions compares P with the stream's own: with another one every tenant's log would look empty. A stream that is not there yet, or that
// this service may not look at, is passed over.
func checkPartitions(ctx context.Context, nc *nats.Conn, partitions int, log *slog.Logger) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	stream, err := js.Stream(ctx, events.StreamAudit)
	if err != nil {
		level := slog.LevelWarn
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			level = slog.LevelInfo
		}
		log.Log(ctx, level, "AUDIT_PARTITIONS could not be compared with the stream", slog.Any("error", err))
		return nil
	}
	transform := stream.CachedInfo().Config.SubjectTransform
	if transform == nil {
		return nil
	}
	if m := partitionFunc.FindStringSubmatch(transform.Destination); m != nil && m[1] != strconv.Itoa(partitions) {
		return fmt.Errorf("AUDIT_PARTITIONS is %d, but stream %s was made with %s: set it to that", partitions, events.StreamAudit, m[1])
	}
	return nil
}
