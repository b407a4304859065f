package app

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
)

// partitionFunc is the number of partitions in the stream's subject transform.
var partitionFunc = regexp.MustCompile(`partition\(\s*(\d+)\s*,`)

// streamPartitions is P as the stream has it, or "" for a stream that is not there yet or has no such transform.
func streamPartitions(ctx context.Context, nc *nats.Conn) (string, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return "", fmt.Errorf("open JetStream: %w", err)
	}
	stream, err := js.Stream(ctx, events.StreamAudit)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("compare AUDIT_PARTITIONS with stream %s: %w", events.StreamAudit, err)
	}
	transform := stream.CachedInfo().Config.SubjectTransform
	if transform == nil {
		return "", nil
	}
	if m := partitionFunc.FindStringSubmatch(transform.Destination); m != nil {
		return m[1], nil
	}
	return "", nil
}

// checkPartitions compares P with the stream's own: with another one every tenant's log would look empty.
func checkPartitions(partitions int, stream string) error {
	if stream == "" || stream == strconv.Itoa(partitions) {
		return nil
	}
	return fmt.Errorf("AUDIT_PARTITIONS is %d, but stream %s was made with %s: set it to that", partitions, events.StreamAudit, stream)
}
