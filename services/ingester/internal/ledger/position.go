package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
)

// BucketPositions is the key-value bucket of the positions, one key for each partition.
const BucketPositions = "audit_positions"

// Position is the newest batch of a partition known to be in the table. It is written some time after the commit and so may lag; it never
// runs ahead. The ledger and the table are the truth.
type Position struct {
	Batch   uint64 `json:"batch"`
	LastSeq uint64 `json:"last_seq"`
}

// Positions reads and writes positions.
type Positions struct{ kv jetstream.KeyValue }

// OpenPositions binds to the bucket, which must exist.
func OpenPositions(ctx context.Context, js jetstream.JetStream) (*Positions, error) {
	kv, err := js.KeyValue(ctx, BucketPositions)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", BucketPositions, err)
	}
	return &Positions{kv: kv}, nil
}

// Get returns the position of the partition, the zero Position when it has none.
func (p *Positions) Get(ctx context.Context, partition int) (Position, error) {
	e, err := p.kv.Get(ctx, strconv.Itoa(partition))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Position{}, nil
	}
	if err != nil {
		return Position{}, fmt.Errorf("read position of partition %d: %w", partition, err)
	}
	var pos Position
	if err := json.Unmarshal(e.Value(), &pos); err != nil {
		return Position{}, fmt.Errorf("read position of partition %d: %w", partition, err)
	}
	return pos, nil
}

// Put writes the position of the partition. Only its driver may call it, with positions that are committed.
func (p *Positions) Put(ctx context.Context, partition int, pos Position) error {
	data, err := json.Marshal(pos)
	if err != nil {
		return fmt.Errorf("encode position: %w", err)
	}
	if _, err := p.kv.Put(ctx, strconv.Itoa(partition), data); err != nil {
		return fmt.Errorf("write position of partition %d: %w", partition, err)
	}
	return nil
}
