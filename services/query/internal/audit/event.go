// Package audit is the domain of the query service: events as readers see them, filters, pages, positions. It knows no technology.
package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// Event is one row of the log, without its tenant: the tenant is the question, never part of the answer.
type Event struct {
	ID           uuid.UUID
	ActorID      string
	ActorType    string
	Action       string
	ResourceType string
	ResourceID   string
	// Metadata is a JSON object, token by token as the producer sent it.
	Metadata json.RawMessage
	// Reasoning is nil when the producer gave none; an empty text is kept as one.
	Reasoning *string
	// CreatedAt is when it happened by the producer's clock, in UTC, to the microsecond.
	CreatedAt time.Time
	// IngestedAt is when the stream took the event in.
	IngestedAt time.Time
	// Seq is the event's sequence in the stream; of several copies of one event the lowest counts.
	Seq uint64
}

// Position is a place in the order of the log: newest first by (created_at, id), ids by their bytes.
type Position struct {
	CreatedAt time.Time
	ID        uuid.UUID
}

// Position is where the event stands.
func (e *Event) Position() Position { return Position{CreatedAt: e.CreatedAt, ID: e.ID} }

// Before says whether p comes earlier in a walk than q: it is newer, or as old with the higher id.
func (p Position) Before(q Position) bool {
	if !p.CreatedAt.Equal(q.CreatedAt) {
		return p.CreatedAt.After(q.CreatedAt)
	}
	return bytes.Compare(p.ID[:], q.ID[:]) > 0
}

// Filter narrows a walk. Within a field any of the values may match, byte for byte; all fields that have values must.
type Filter struct {
	ActorIDs      []string
	ResourceTypes []string
	ResourceIDs   []string
	Actions       []string
	// From and To bound CreatedAt: From <= CreatedAt < To, each open when zero.
	From, To time.Time
}

// PageQuery asks for the events after a position.
type PageQuery struct {
	Tenant uuid.UUID
	Filter Filter
	// After is the last event of the page before; nil asks for the first page.
	After *Position
	// Limit is the most events to return, from 1 to MaxLimit.
	Limit int
}

// Page is a stretch of a walk. More says that at least one event follows the last one.
type Page struct {
	Events []Event
	More   bool
}

// Limits of a page.
const (
	DefaultLimit = 50
	MaxLimit     = 1000
	// MaxValues is how often one filter parameter may be repeated.
	MaxValues = 20
	// MaxValueBytes bounds one filter value, as it bounds the field it is compared with.
	MaxValueBytes = 256
)

// Pinger answers whether a dependency is reachable.
type Pinger interface {
	Ping(ctx context.Context) error
}
