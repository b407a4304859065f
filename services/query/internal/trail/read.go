// Package trail takes down who read the audit log: an event in the log of the tenant that was asked for, for every walk, export, single event and
// denial.
package trail

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/query/internal/audit"
)

// What the events say. These names are part of what readers see: they stay.
const (
	ActionRead   = "audit_log.read"
	ActionExport = "audit_log.export"
	// ActionExportEnded says how an export ended that ActionExport says has begun.
	ActionExportEnded = "audit_log.export_ended"
	ActionDisabled    = "audit_log.read_audit_disabled"

	ResourceType = "audit_log"
	ActorKey     = "api_key"
	ActorService = "service"
	// ServiceID is the actor of what no key did.
	ServiceID = "auditlog-query"
)

// maxFilterBytes bounds the filters of an event; longer ones are given as their hash. It bounds the memory of the queue with them.
const maxFilterBytes = 4 << 10

// Read is one use of the log by a key, or the denial of one.
type Read struct {
	// Tenant is the tenant of the key: whose log is read, and where the event goes.
	Tenant         uuid.UUID
	KeyID, KeyName string
	// Route is the address that was asked, such as /v1/audit-log.
	Route  string
	Export bool
	// Filter, Limit: what was asked for. Limit is 0 when there is none.
	Filter audit.Filter
	Limit  int
	// EventID is the single event that was asked for, uuid.Nil otherwise.
	EventID uuid.UUID
	// Continued says that a cursor was given: the read is recorded unless its beginning was.
	Continued bool
	// Returned is how many events the answer holds; of a walk, its first page. Of an export nobody knows when it begins, and it is left out.
	Returned int
	// ExportID ties the end of an export to its beginning.
	ExportID uuid.UUID
	// Outcome says that this is the end of an export, and how it ended; Returned is then how many events were sent.
	Outcome Outcome
	// Denied says that nothing was shown, Code why.
	Denied bool
	Code   string
	// TenantAsked is the tenant of the header when it is not the key's; empty otherwise.
	TenantAsked string
	// Policies are the ids of those that determined the decision.
	Policies  []string
	RequestID string
	Source    netip.Addr
}

// Outcome is how an export ended.
type Outcome string

// Ends of exports. One that has neither was ended by the end of the service.
const (
	Complete Outcome = "complete"
	Broken   Outcome = "broken"
)

// filterJSON is a filter as events show it.
type filterJSON struct {
	ActorIDs      []string   `json:"actor_id,omitempty"`
	ResourceTypes []string   `json:"resource_type,omitempty"`
	ResourceIDs   []string   `json:"resource_id,omitempty"`
	Actions       []string   `json:"action,omitempty"`
	From          *time.Time `json:"from,omitempty"`
	To            *time.Time `json:"to,omitempty"`
}

// metadata is that of a read's event.
type metadata struct {
	KeyName     string          `json:"key_name"`
	Decision    string          `json:"decision"`
	Code        string          `json:"code,omitempty"`
	Policies    []string        `json:"policies,omitempty"`
	Route       string          `json:"route"`
	Filter      json.RawMessage `json:"filter,omitempty"`
	FilterHash  string          `json:"filter_sha256,omitempty"`
	EventID     string          `json:"event_id,omitempty"`
	Limit       int             `json:"limit,omitempty"`
	Returned    *int            `json:"returned,omitempty"`
	ExportID    string          `json:"export_id,omitempty"`
	Outcome     Outcome         `json:"outcome,omitempty"`
	Continued   bool            `json:"continued,omitempty"`
	TenantAsked string          `json:"tenant_asked,omitempty"`
	RequestID   string          `json:"request_id"`
	SourceIP    string          `json:"source_ip,omitempty"`
}

// event is the event of a read.
func (r *Read) event(now time.Time) (events.Event, error) {
	m := metadata{KeyName: r.KeyName, Decision: "allow", Policies: r.Policies, Route: r.Route, Limit: r.Limit,
		Continued: r.Continued, TenantAsked: r.TenantAsked, RequestID: r.RequestID}
	if r.Denied {
		m.Decision, m.Code = "deny", r.Code
	}
	if m.Outcome = r.Outcome; !r.Export || r.Outcome != "" {
		m.Returned = &r.Returned
	}
	if r.ExportID != uuid.Nil {
		m.ExportID = r.ExportID.String()
	}
	if r.EventID != uuid.Nil {
		m.EventID = r.EventID.String()
	}
	if r.Source.IsValid() {
		m.SourceIP = r.Source.String()
	}
	filter, err := r.filter()
	if err != nil {
		return events.Event{}, err
	}
	switch {
	case len(filter) > maxFilterBytes:
		sum := sha256.Sum256(filter)
		m.FilterHash = hex.EncodeToString(sum[:])
	case string(filter) != "{}":
		m.Filter = filter
	}
	body, err := json.Marshal(m)
	if err != nil {
		return events.Event{}, fmt.Errorf("encode a read's event: %w", err)
	}
	return events.Event{ID: events.NewID(), TenantID: r.Tenant, ActorID: r.KeyID, ActorType: ActorKey, Action: r.action(),
		ResourceType: ResourceType, ResourceID: r.Tenant.String(), Metadata: body, CreatedAt: now}, nil
}

func (r *Read) action() string {
	switch {
	case r.Outcome != "":
		return ActionExportEnded
	case r.Export:
		return ActionExport
	}
	return ActionRead
}

func (r *Read) filter() ([]byte, error) {
	f := filterJSON{ActorIDs: r.Filter.ActorIDs, ResourceTypes: r.Filter.ResourceTypes, ResourceIDs: r.Filter.ResourceIDs, Actions: r.Filter.Actions}
	if !r.Filter.From.IsZero() {
		f.From = &r.Filter.From
	}
	if !r.Filter.To.IsZero() {
		f.To = &r.Filter.To
	}
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encode a read's filter: %w", err)
	}
	return b, nil
}

// walk tells walks apart: one key, one address, one set of filters.
func (r *Read) walk() (walkID, error) {
	filter, err := r.filter()
	if err != nil {
		return walkID{}, err
	}
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s\n%s\n%s\n", r.Tenant, r.KeyID, r.Route)
	_, _ = h.Write(filter)
	return walkID(h.Sum(nil)), nil
}
