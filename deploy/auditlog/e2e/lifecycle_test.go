package e2e

import (
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	ingester "example.com/auditlog/services/ingester/app"
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

// Ensure readers see a pseudonym in place of somebody who was erased, find nothing under the name and everything under the pseudonym, and that it is so after
// a rebuild and with another number of partitions, with events that come later, too.
func TestReadAfterErasure(t *testing.T) {
	p := &partitioned{system: &system{Stack: stacktest.Start(t)}, log: slog.New(slog.NewJSONHandler(&testWriter{t}, &slog.HandlerOptions{Level: slog.LevelError}))}
	stopIngester, stopQuery := p.ingest(t, 4), p.serve(t, 4)
	var err error
	p.nc, err = nats.Connect(p.NATSURL())
	must(t, err)
	t.Cleanup(p.nc.Close)
	pub, err := events.NewPublisher(p.nc)
	must(t, err)
	publish := func(n int) {
		for i := range n {
			ev := newEvent(tenantA)
			ev.ActorID, ev.Metadata, ev.CreatedAt = []string{"marie", "pierre"}[i%2], []byte(`{"ip": "::1","n": 1.0}`), ev.CreatedAt.AddDate(-i%3, 0, 0)
			must(t, pub.Publish(t.Context(), ev))
		}
	}
	publish(10)
	key := p.key(t, tenantA)
	p.walkUntil(t, key, tenantA, 1000, 10)
	run := func(partitions int, args ...string) string {
		t.Helper()
		status, out := p.command(t, partitions, args...)
		if status != 0 {
			t.Fatalf("%v: %d %s", args, status, out)
		}
		return out
	}
	tenant := []string{"--tenant", tenantA.String(), "--operator", "olga", "--reason", "r"}
	run(4, append([]string{"erase", "rule", "set", "--fields", "ip"}, tenant...)...)
	out := run(4, append([]string{"erase", "--actor", "marie"}, tenant...)...)
	_, rest, _ := strings.Cut(out, "events changed: the actor is ")
	pseudonym, _, _ := strings.Cut(rest, "\n")
	check := func(when string, n int) {
		t.Helper()
		got := p.walk(t, key, tenantA, url.Values{"actor_id": {pseudonym}, "limit": {"2"}})
		if clear := p.walk(t, key, tenantA, url.Values{"actor_id": {"marie"}}); len(clear) != 0 || len(got) != n {
			t.Errorf("%s: %d events under the name, %d under the pseudonym, want 0 and %d", when, len(clear), len(got), n)
		}
		for _, it := range got {
			if it.ActorID != pseudonym || strings.ReplaceAll(string(it.Metadata), " ", "") != `{"ip":null,"n":1.0}` {
				t.Errorf("%s: %+v", when, it)
			}
		}
		if others := p.walk(t, key, tenantA, url.Values{"actor_id": {"pierre"}}); len(others) != n || !strings.Contains(string(others[0].Metadata), "::1") {
			t.Errorf("%s: %d events of another actor", when, len(others))
		}
		if out := run(4+2*(n-5), "verify", "--deep"); !strings.Contains(out, "OK") {
			t.Errorf("%s: %s", when, out)
		}
	}
	check("after the erasure", 5)
	run(4, "rebuild")
	check("after a rebuild", 5)
	ended := &said{on: map[string]func(){"Stop all ingesters now": func() { _ = stopIngester() }}}
	if status := ingester.Main(t.Context(), []string{"repartition", "--to", "6"}, p.env(4), nil, ended, ended); status != 0 {
		t.Fatalf("%d %s", status, ended.text)
	}
	_ = stopQuery()
	run(4, "repartition", "--to", "6", "--finish", "--keep-ledger", filepath.Join(t.TempDir(), "ledger"))
	p.ingest(t, 6)
	p.serve(t, 6)
	publish(2)
	must(t, pub.Close(t.Context()))
	p.walkUntil(t, key, tenantA, 1000, 14)
	check("with other partitions", 6)
}
