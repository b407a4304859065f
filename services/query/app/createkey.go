package app

import (
	"context"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"example.com/auditlog/services/query/internal/keys"
)

// KeySpec says what a new key shall be.
type KeySpec struct {
	// Tenant is whose log the key opens.
	Tenant uuid.UUID
	// Name tells people what the key is for.
	Name string
	// Roles default to auditor.
	Roles []string
	// Actor and ActorType name whom the key acts for; the role self needs an actor.
	Actor, ActorType string
	// ResourceTypes limits the key to events on these types; empty means no limit.
	ResourceTypes []string
	// Sources are the networks that the key may be used from; empty means all.
	Sources []netip.Prefix
	// Expires is the key's life; 0 means for ever.
	Expires time.Duration
}

// CreatedKey is a new key. Key is its text, which nobody can show again. Its JSON is what `keys create --json` prints.
type CreatedKey struct {
	ID        string     `json:"id"`
	Key       string     `json:"key"`
	TenantID  uuid.UUID  `json:"tenant_id"`
	Name      string     `json:"name"`
	Roles     []string   `json:"roles"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at"`
}

// CreateKey makes a key. Every running query service knows it within a second. An error names every fault of the spec.
func CreateKey(ctx context.Context, nc *nats.Conn, spec KeySpec) (CreatedKey, error) {
	store, err := keys.OpenStore(ctx, nc)
	if err != nil {
		return CreatedKey{}, err
	}
	k, text, err := store.Create(ctx, keys.Spec(spec))
	if err != nil {
		return CreatedKey{}, err
	}
	return created(k, text), nil
}

func created(k keys.Key, text string) CreatedKey {
	return CreatedKey{ID: k.ID, Key: text, TenantID: k.Tenant, Name: k.Name, Roles: k.Roles, CreatedAt: k.CreatedAt, ExpiresAt: k.ExpiresAt}
}
