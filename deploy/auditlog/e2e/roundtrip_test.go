package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
)

// nasty are metadata objects that a parser on the way would change.
var nasty = []string{
	`{}`,
	`{"b":1,"a":2,"b":3}`,
	`{"n":1.0,"e":1E+2,"big":12345678901234567890123,"neg":-0,"tiny":1e-400}`,
	`{"u":"\u00e9é\ud83d\ude00😀\u2028","esc":"\/\b\f\n\r\t\\\"","nul":"\u0000"}`,
	`{"null":null,"t":true,"f":false,"":"","deep":{"a":[[[{"x":[]}]]]}}`,
	`{"html":"<script>&'</script>","sql":"'; DROP TABLE event_log; --","pct":"100%_\\"}`,
}

// Ensure events come back byte for byte, whatever client published them.
func TestRoundTripByteForByte(t *testing.T) {
	s := startSystem(t)
	js, err := jetstream.New(s.nc)
	must(t, err)
	tenant := uuid.New()
	at := time.Date(2026, 2, 3, 4, 5, 6, 123456000, time.UTC)
	var want []events.Event
	for i, meta := range nasty {
		why := "line one\nline two\u0000\t" + strings.Repeat("é", i)
		ev := events.Event{
			ID: uuid.New(), TenantID: tenant, ActorID: "a'\"\\%_ü" + fmt.Sprint(i), ActorType: "user", Action: "x.y",
			ResourceType: "类型", ResourceID: strings.Repeat("r", 256), Metadata: json.RawMessage(meta), CreatedAt: at,
		}
		if i%2 == 0 {
			ev.Reasoning = &why
		}
		want = append(want, ev)
		wire, err := ev.Encode()
		must(t, err)
		// Twice, the second time as one who lost the acknowledgement and waited longer than the duplicate window.
		for _, id := range []string{ev.ID.String(), ev.ID.String() + "-again"} {
			_, err = js.PublishMsg(t.Context(), &nats.Msg{Subject: events.Subject(tenant), Data: wire, Header: nats.Header{"Nats-Msg-Id": {id}}})
			must(t, err)
		}
	}
	got := s.walkUntil(t, s.key(t, tenant), tenant, 1, len(want))
	compareWalk(t, tenant, want, got)
}

// Ensure each filter finds its events alone, whatever characters they hold, and that another tenant's never show.
func TestFiltersAndTenants(t *testing.T) {
	s := startSystem(t)
	pub, err := events.NewPublisher(s.nc)
	must(t, err)
	a, b := uuid.New(), uuid.New()
	texts := []string{"plain", "qu'ote", `back\slash`, "per%cent", "under_score", "uni✓code", "a b+c&d=e;f", strings.Repeat("x", 256)}
	for i, text := range texts {
		for _, tenant := range []uuid.UUID{a, b} {
			must(t, pub.Publish(t.Context(), events.Event{
				TenantID: tenant, ActorID: text, ActorType: "user", Action: "act." + text[:1], ResourceType: "thing",
				ResourceID: fmt.Sprint(i), CreatedAt: time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC),
			}))
		}
	}
	must(t, pub.Close(t.Context()))
	key := s.key(t, a)
	s.walkUntil(t, key, a, 1000, len(texts))
	for i, text := range texts {
		got := s.get(t, key, a, url.Values{"actor_id": {text}})
		if len(got.Data) != 1 || got.Data[0].ActorID != text || got.Data[0].ResourceID != fmt.Sprint(i) {
			t.Errorf("actor_id %q: %+v", text, got.Data)
		}
	}
	two := s.get(t, key, a, url.Values{"actor_id": {texts[1], texts[2]}, "resource_type": {"thing"}})
	if len(two.Data) != 2 {
		t.Errorf("two actors: %d events", len(two.Data))
	}
	if status, _ := s.request(t, key, b, nil); status != 403 {
		t.Errorf("another tenant's log: %d, want 403", status)
	}
}
