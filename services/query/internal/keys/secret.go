package keys

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/services/query/internal/audit"
)

// Where the secret of the cursors is kept.
const (
	SecretBucket = "audit_secrets"
	cursorSecret = "cursor"
)

// CursorSecret is the secret that cursors are made with. The first instance to ask makes it; all others, and every later start, find the same.
func CursorSecret(ctx context.Context, nc *nats.Conn) ([]byte, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	kv, err := EnsureBucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: SecretBucket, Description: "secrets of the audit log's query services", Storage: jetstream.FileStorage,
	})
	if err != nil {
		return nil, err
	}
	secret := make([]byte, audit.SecretBytes)
	_, _ = rand.Read(secret)
	_, err = kv.Create(ctx, cursorSecret, secret)
	if err == nil {
		return secret, nil
	}
	if !errors.Is(err, jetstream.ErrKeyExists) {
		return nil, fmt.Errorf("store the secret of the cursors: %w", err)
	}
	entry, err := kv.Get(ctx, cursorSecret)
	if err != nil {
		return nil, fmt.Errorf("read the secret of the cursors: %w", err)
	}
	return entry.Value(), nil
}
