package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
)

// Bucket is the JetStream key-value bucket of the keys: key id → JSON of Key.
const Bucket = "audit_keys"

// bucketHistory is how many versions of a key the bucket keeps: enough to see who it was before it was revoked.
const bucketHistory = 5

var (
	// ErrUnknown means that no key has this id.
	ErrUnknown = errors.New("no key has this id")
	// errRevoked means that a key is revoked already.
	errRevoked = errors.New("the key is revoked already")
)

// Store creates, lists and changes keys. It is safe for concurrent use.
type Store struct {
	kv jetstream.KeyValue
}

// OpenStore finds the bucket or makes it.
func OpenStore(ctx context.Context, nc *nats.Conn) (*Store, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	kv, err := EnsureBucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: Bucket, Description: "API keys of the audit log: hashes and attributes", History: bucketHistory, Storage: jetstream.FileStorage,
	})
	if err != nil {
		return nil, err
	}
	return &Store{kv: kv}, nil
}

// EnsureBucket finds a bucket, whatever its configuration, or makes it as cfg says, with as many replicas as the stream of events has.
func EnsureBucket(ctx context.Context, js jetstream.JetStream, cfg jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	kv, err := js.KeyValue(ctx, cfg.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		if cfg.Replicas, err = streamReplicas(ctx, js); err == nil {
			kv, err = js.CreateKeyValue(ctx, cfg)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open key-value bucket %s: %w", cfg.Bucket, err)
	}
	return kv, nil
}

// streamReplicas is how many servers keep the stream of events. Without a stream it is one, unless NATS is a cluster: keys on one server of three
// would be a surprise for later.
func streamReplicas(ctx context.Context, js jetstream.JetStream) (int, error) {
	stream, err := js.Stream(ctx, events.StreamAudit)
	if err == nil {
		return max(1, stream.CachedInfo().Config.Replicas), nil
	}
	if cluster := js.Conn().ConnectedClusterName(); cluster != "" {
		return 0, fmt.Errorf("a bucket in NATS cluster %s takes its number of replicas from stream %s, so start an ingester first: %w", cluster, events.StreamAudit, err)
	}
	return 1, nil
}

// Create makes a key and returns it with its text, which is kept nowhere.
func (s *Store) Create(ctx context.Context, spec Spec) (Key, string, error) {
	if err := spec.Validate(); err != nil {
		return Key{}, "", err
	}
	k, text := spec.key(time.Now())
	if err := s.create(ctx, k); err != nil {
		return Key{}, "", err
	}
	return k, text, nil
}

func (s *Store) create(ctx context.Context, k Key) error {
	value, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("encode key %s: %w", k.ID, err)
	}
	if _, err := s.kv.Create(ctx, k.ID, value); err != nil {
		return fmt.Errorf("store key %s: %w", k.ID, err)
	}
	return nil
}

// Get is the key with this id, or ErrUnknown.
func (s *Store) Get(ctx context.Context, id string) (Key, error) {
	k, _, err := s.get(ctx, id)
	return k, err
}

func (s *Store) get(ctx context.Context, id string) (Key, uint64, error) {
	if !validID(id) {
		return Key{}, 0, fmt.Errorf("%w: %q (ids have %d letters and digits: see `query keys list`)", ErrUnknown, id, IDLength)
	}
	entry, err := s.kv.Get(ctx, id)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Key{}, 0, fmt.Errorf("%w: %q (see `query keys list`)", ErrUnknown, id)
	}
	if err != nil {
		return Key{}, 0, fmt.Errorf("read key %s: %w", id, err)
	}
	k, err := decode(id, entry.Value())
	return k, entry.Revision(), err
}

// List is all keys, the oldest first.
func (s *Store) List(ctx context.Context) ([]Key, error) {
	w, err := s.kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	defer func() { _ = w.Stop() }()
	var all []Key
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("list keys: %w", ctx.Err())
		case entry, ok := <-w.Updates():
			if !ok {
				return nil, errors.New("list keys: the connection to NATS was closed")
			}
			if entry == nil {
				slices.SortFunc(all, func(a, b Key) int {
					if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
						return c
					}
					return strings.Compare(a.ID, b.ID)
				})
				return all, nil
			}
			k, err := decode(entry.Key(), entry.Value())
			if err != nil {
				return nil, err
			}
			all = append(all, k)
		}
	}
}

// Revoke ends a key's life now. Revoking it again changes nothing and says false.
func (s *Store) Revoke(ctx context.Context, id string) (changed bool, err error) {
	err = s.update(ctx, id, func(k *Key) error {
		if k.RevokedAt != nil {
			return errRevoked
		}
		now := time.Now().UTC().Truncate(time.Microsecond)
		k.RevokedAt = &now
		return nil
	})
	if errors.Is(err, errRevoked) {
		return false, nil
	}
	return err == nil, err
}

// Rotate makes a new key with the attributes and the remaining rights of another, which goes on for grace and then ends. The new key lives for
// expires, 0 meaning as long as the old one would have.
func (s *Store) Rotate(ctx context.Context, id string, grace, expires time.Duration) (Key, string, error) {
	old, err := s.Get(ctx, id)
	if err != nil {
		return Key{}, "", err
	}
	if state := old.State(time.Now()); state != "active" {
		return Key{}, "", fmt.Errorf("rotate key %s: it is %s; create a new one", id, state)
	}
	spec := Spec{Tenant: old.Tenant, Name: old.Name, Roles: old.Roles, Actor: old.Actor, ActorType: old.ActorType,
		ResourceTypes: old.ResourceTypes, Sources: old.Sources, Expires: expires}
	if err := spec.Validate(); err != nil {
		return Key{}, "", err
	}
	k, text := spec.key(time.Now())
	if expires == 0 {
		k.ExpiresAt = old.ExpiresAt
	}
	if err := s.create(ctx, k); err != nil {
		return Key{}, "", err
	}
	return k, text, s.retire(ctx, id, grace)
}

// retire lets a key live on for grace at most.
func (s *Store) retire(ctx context.Context, id string, grace time.Duration) error {
	if grace <= 0 {
		_, err := s.Revoke(ctx, id)
		return err
	}
	end := time.Now().Add(grace).UTC().Truncate(time.Microsecond)
	return s.update(ctx, id, func(k *Key) error {
		if k.ExpiresAt == nil || end.Before(*k.ExpiresAt) {
			k.ExpiresAt = &end
		}
		return nil
	})
}

// updateAttempts bounds how often a change is tried again because somebody else changed the same key.
const updateAttempts = 5

// update changes a key by compare-and-set.
func (s *Store) update(ctx context.Context, id string, change func(*Key) error) error {
	for range updateAttempts {
		k, revision, err := s.get(ctx, id)
		if err != nil {
			return err
		}
		if err := change(&k); err != nil {
			return err
		}
		value, err := json.Marshal(k)
		if err != nil {
			return fmt.Errorf("encode key %s: %w", id, err)
		}
		_, err = s.kv.Update(ctx, id, value, revision)
		if !errors.Is(err, jetstream.ErrKeyExists) {
			if err != nil {
				return fmt.Errorf("change key %s: %w", id, err)
			}
			return nil
		}
	}
	return fmt.Errorf("change key %s: somebody else keeps changing it: try again", id)
}

func decode(id string, value []byte) (Key, error) {
	var k Key
	if err := json.Unmarshal(value, &k); err != nil {
		return Key{}, fmt.Errorf("decode key %s: %w", id, err)
	}
	if k.ID != id {
		return Key{}, fmt.Errorf("decode key %s: it says that it is %q", id, k.ID)
	}
	return k, nil
}
