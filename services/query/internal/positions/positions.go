// Package positions follows how far the ingester has committed each partition. A position may lag behind the table and never runs ahead of it, so
// that whatever lies at or below one is all there and stays as it is: it is the feed's watermark.
package positions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
)

// Bucket is the ingester's key-value bucket of positions: one key for each partition.
const Bucket = "audit_positions"

const (
	// askTimeout bounds one look into the bucket. A feed without a sure position is an answer too; it must be a quick one.
	askTimeout = time.Second
	// retryWait is the pause before following is begun anew.
	retryWait = 500 * time.Millisecond
)

// errGone means that the watch ended by itself.
var errGone = errors.New("the watch has ended")

// Follower knows the positions and tells when they move. It is safe for concurrent use.
type Follower struct {
	nc         *nats.Conn
	js         jetstream.JetStream
	log        *slog.Logger
	partitions int

	mu    sync.Mutex
	kv    jetstream.KeyValue // nil until the bucket has been found
	known map[int]uint64     // the highest position seen, by partition
	moved map[int]chan struct{}
}

// New makes a Follower for a pipeline of so many partitions. It asks nothing yet: the bucket is the ingester's, and may come later.
func New(nc *nats.Conn, partitions int, log *slog.Logger) (*Follower, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return &Follower{nc: nc, js: js, log: log, partitions: partitions, known: map[int]uint64{}, moved: map[int]chan struct{}{}}, nil
}

// Committed is the sequence up to which the tenant's partition is in the table. sure says that the bucket itself has just been asked; otherwise
// NATS is away, and seq is the last that was heard.
func (f *Follower) Committed(ctx context.Context, tenant uuid.UUID) (seq uint64, sure bool) {
	p := events.Partition(tenant, f.partitions)
	err := f.ask(ctx, p)
	if err != nil && ctx.Err() == nil {
		f.log.Warn("the position of a partition could not be read", slog.Int("partition", p), slog.Any("error", err))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known[p], err == nil
}

// Moved is closed once the tenant's partition is committed beyond seq, as far as this process hears of it.
func (f *Follower) Moved(tenant uuid.UUID, seq uint64) <-chan struct{} {
	p := events.Partition(tenant, f.partitions)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known[p] > seq {
		c := make(chan struct{})
		close(c)
		return c
	}
	if f.moved[p] == nil {
		f.moved[p] = make(chan struct{})
	}
	return f.moved[p]
}

// Run follows the bucket until ctx ends and returns nil then.
func (f *Follower) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := f.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		f.log.Debug("following the positions anew", slog.Any("error", err))
		select {
		case <-ctx.Done():
		case <-time.After(retryWait):
		}
	}
	return nil
}

func (f *Follower) follow(ctx context.Context) error {
	kv, err := f.bucket(ctx)
	if err != nil {
		return err
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		f.forget()
		return fmt.Errorf("watch bucket %s: %w", Bucket, err)
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case entry, ok := <-w.Updates():
			if !ok {
				return errGone
			}
			if entry != nil && entry.Operation() == jetstream.KeyValuePut {
				_ = f.take(entry) // said in the log
			}
		}
	}
}

// ask reads the position of one partition from the bucket.
func (f *Follower) ask(ctx context.Context, partition int) error {
	if !f.nc.IsConnected() {
		return nats.ErrDisconnected
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	kv, err := f.bucket(ctx)
	if err != nil {
		return err
	}
	entry, err := kv.Get(ctx, strconv.Itoa(partition))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil // a partition without a batch
	}
	if err != nil {
		f.forget()
		return fmt.Errorf("read bucket %s: %w", Bucket, err)
	}
	return f.take(entry)
}

// take remembers a position. One that is lower than another seen before is an old driver's last word: what was committed stays so.
func (f *Follower) take(entry jetstream.KeyValueEntry) error {
	partition, err := strconv.Atoi(entry.Key())
	var position struct {
		LastSeq uint64 `json:"last_seq"`
	}
	if err == nil {
		err = json.Unmarshal(entry.Value(), &position)
	}
	if err != nil {
		f.log.Error("a position cannot be read", slog.String("key", entry.Key()), slog.Any("error", err))
		return fmt.Errorf("read position %s: %w", entry.Key(), err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if position.LastSeq <= f.known[partition] {
		return nil
	}
	f.known[partition] = position.LastSeq
	if c := f.moved[partition]; c != nil {
		close(c)
		delete(f.moved, partition)
	}
	return nil
}

func (f *Follower) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	f.mu.Lock()
	kv := f.kv
	f.mu.Unlock()
	if kv != nil {
		return kv, nil
	}
	kv, err := f.js.KeyValue(ctx, Bucket)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s, which the ingester makes when it starts: %w", Bucket, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kv = kv
	return kv, nil
}

// forget lets the bucket be looked for anew: it may have been deleted and made again.
func (f *Follower) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kv = nil
}
