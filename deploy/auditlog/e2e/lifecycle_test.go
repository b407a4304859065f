package e2e

import (
	"net/url"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
)

// Ensure a walk over the API gives, right after events were removed, those that stay and no other, whatever the filter, and an event that went is not found.
func TestWalkAfterRetention(t *testing.T) {
	s := startSystem(t)
	tenant := uuid.New()
	p, err := events.NewPublisher(s.nc)
	must(t, err)
	var stay []uuid.UUID
	for i := range 40 {
		ev := events.Event{ID: uuid.New(), TenantID: tenant, ActorID: "ann", ActorType: "user", Action: "pay", ResourceType: "r", ResourceID: "x", CreatedAt: time.Now()}
		if i%2 == 0 {
			ev.CreatedAt = time.Now().AddDate(0, 0, -10*i-401)
		} else {
			stay = append(stay, ev.ID)
		}
		must(t, p.Publish(t.Context(), ev))
	}
	must(t, p.Close(t.Context()))
	key := s.key(t, tenant)
	s.walkUntil(t, key, tenant, 7, 40)
	env := append(os.Environ(), "AUDIT_NATS_URL="+s.NATSURL(), "AUDIT_CLICKHOUSE_URL="+s.ClickHouseURL())
	s.waitFor(t, "all events to be known to be in the table", func() bool {
		if out, err := command(t, env, bin(t, "ingester"), "retention", "run", "--operator", "olga"); err != nil {
			t.Fatalf("retention run: %v\n%s", err, out)
		}
		return len(s.walk(t, key, tenant, url.Values{"action": {"pay"}, "limit": {"7"}})) == len(stay)
	})
	for _, params := range []url.Values{{"action": {"pay"}, "limit": {"7"}}, {"actor_id": {"ann"}}, {"resource_id": {"x"}, "limit": {"3"}}} {
		var got []uuid.UUID
		for _, it := range s.walk(t, key, tenant, params) {
			got = append(got, it.ID)
		}
		slices.Reverse(got) // newest first
		if !slices.Equal(got, stay) {
			t.Errorf("%v: %d events, want %d", params, len(got), len(stay))
		}
	}
	if out, err := command(t, env, bin(t, "ingester"), "verify", "--deep"); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
}
