package app

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/pkg/service/repartition"
)

// partitionFunc is the number of partitions in the stream's subject transform.
var partitionFunc = regexp.MustCompile(`partition\(\s*(\d+)\s*,`)

// watchEvery is how often a running service looks whether P is still its own; `ingester repartition` waits five times as long before the table changes.
const watchEvery = 2 * time.Second

// streamPartitions is P as the table has it: that of the stream, unless it is being changed. It is "" for a stream that is not there yet or has no such
// transform. The error is a repartition.UnderwayError while nobody may read.
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
	cfg := stream.CachedInfo().Config
	change, err := repartition.Of(cfg.Metadata)
	if err != nil {
		return "", err
	}
	if change != nil {
		if change.Readable() == 0 {
			return "", repartition.UnderwayError{State: *change}
		}
		return strconv.Itoa(change.Readable()), nil
	}
	transform := cfg.SubjectTransform
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

// watchPartitions ends the service when P is changed under it: it would go on looking where rows are no more. While NATS is away nothing is known, and it
// goes on.
func (s *Service) watchPartitions(ctx context.Context) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		actx, cancel := context.WithTimeout(ctx, watchEvery)
		stream, err := streamPartitions(actx, s.nc)
		cancel()
		var change repartition.UnderwayError
		if errors.As(err, &change) {
			return change
		}
		if err != nil {
			continue
		}
		if err := checkPartitions(s.partitions, stream); err != nil {
			return err
		}
	}
}
