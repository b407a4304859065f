package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/services/query/internal/audit"
)

// request is the case as a request.
func (c *caseSpec) request(s *suite) (Request, error) {
	if c.Expect.Decision != "allow" && c.Expect.Decision != "deny" {
		return Request{}, errors.New("expect.decision must be allow or deny")
	}
	key, err := caseUUID(c.Key.Tenant, caseTenant)
	if err != nil {
		return Request{}, fmt.Errorf("key.tenant: %w", err)
	}
	asked, err := caseUUID(c.Tenant, key)
	if err != nil {
		return Request{}, fmt.Errorf("tenant: %w", err)
	}
	var ip netip.Addr
	if c.SourceIP != "" {
		if ip, err = netip.ParseAddr(c.SourceIP); err != nil {
			return Request{}, fmt.Errorf("source_ip: %w", err)
		}
	}
	action := cmp.Or(c.Action, QueryLog)
	if action != QueryLog && action != ExportLog {
		return Request{}, fmt.Errorf("action must be %s or %s", QueryLog, ExportLog)
	}
	now := c.Now
	if now.IsZero() {
		now = s.Now
	}
	return Request{
		Principal: Principal{KeyID: "case", Tenant: key, Roles: c.Key.Roles, ActorID: c.Key.ActorID, ActorType: c.Key.ActorType,
			ResourceTypes: c.Key.ResourceTypes, ExpiresAt: c.Key.ExpiresAt},
		Tenant: asked, Action: action, Limit: cmp.Or(c.Limit, audit.DefaultLimit), SourceIP: ip, Now: now,
		Filter: audit.Filter{ActorIDs: c.Filter.ActorIDs, ResourceTypes: c.Filter.ResourceTypes, ResourceIDs: c.Filter.ResourceIDs,
			Actions: c.Filter.Actions, From: c.Filter.From, To: c.Filter.To},
	}, nil
}

func caseUUID(text string, otherwise uuid.UUID) (uuid.UUID, error) {
	if text == "" {
		return otherwise, nil
	}
	return uuid.Parse(text)
}

// event is the row that a case calls by this name.
func (s *eventSpec) event(name string, now time.Time) (*audit.Event, error) {
	id, err := caseUUID(s.ID, uuid.NewSHA1(caseTenant, []byte(name)))
	if err != nil {
		return nil, fmt.Errorf("event %q: id: %w", name, err)
	}
	const other = "unspecified"
	e := &audit.Event{ID: id, ActorID: cmp.Or(s.ActorID, other), ActorType: cmp.Or(s.ActorType, other), Action: cmp.Or(s.Action, other),
		ResourceType: cmp.Or(s.ResourceType, other), ResourceID: cmp.Or(s.ResourceID, other), Reasoning: s.Reasoning, CreatedAt: s.CreatedAt}
	if e.CreatedAt.IsZero() {
		e.CreatedAt = now
	}
	return e, nil
}
