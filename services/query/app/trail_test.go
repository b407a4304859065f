package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/query/app"
)

// readEvent is an event of a read as it is on the stream.
type readEvent struct {
	Action       string `json:"action"`
	ActorID      string `json:"actor_id"`
	ActorType    string `json:"actor_type"`
	ResourceType string `json:"resource_type"`
	ResourceID   string `json:"resource_id"`
	Metadata     struct {
		KeyName     string   `json:"key_name"`
		Decision    string   `json:"decision"`
		Code        string   `json:"code"`
		Policies    []string `json:"policies"`
		Route       string   `json:"route"`
		Filter      map[string]any
		EventID     string `json:"event_id"`
		ExportID    string `json:"export_id"`
		Outcome     string `json:"outcome"`
		Limit       int    `json:"limit"`
		Returned    int    `json:"returned"`
		Continued   bool   `json:"continued"`
		TenantAsked string `json:"tenant_asked"`
		RequestID   string `json:"request_id"`
		SourceIP    string `json:"source_ip"`
		Setting     string `json:"setting"`
	} `json:"metadata"`
}

// withStream makes the stream that events go to; the ingester does elsewhere.
func withStream(t *testing.T, s *system) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(s.nc)
	must(t, err)
	stream, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "AUDIT_READS_TEST", Subjects: []string{"audit.events.*"}, AllowAtomicPublish: true})
	must(t, err)
	return stream
}

// reads waits until a tenant's events are as many as wanted, looks a little longer, and returns them.
func reads(t *testing.T, stream jetstream.Stream, tenant uuid.UUID, want int) []readEvent {
	t.Helper()
	var got []readEvent
	deadline, settled := time.Now().Add(patience), false
	for {
		got = readsNow(t, stream, tenant)
		if len(got) >= want && settled || time.Now().After(deadline) {
			break
		}
		settled = len(got) >= want
		time.Sleep(200 * time.Millisecond)
	}
	if len(got) != want {
		t.Fatalf("%d events of reads, want %d: %+v", len(got), want, got)
	}
	return got
}

func readsNow(t *testing.T, stream jetstream.Stream, tenant uuid.UUID) []readEvent {
	t.Helper()
	info, err := stream.Info(t.Context())
	must(t, err)
	var out []readEvent
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq && seq > 0; seq++ {
		m, err := stream.GetMsg(t.Context(), seq)
		must(t, err)
		if m.Subject != "audit.events."+tenant.String() {
			continue
		}
		var e readEvent
		must(t, json.Unmarshal(m.Data, &e))
		out = append(out, e)
	}
	return out
}

// Ensure walks, single events and denials become events of the key's tenant, each once, with who asked what.
func TestReadsAreRecorded(t *testing.T) {
	own := stacktest.Start(t)
	quiet, tenant, theirs := uuid.New(), uuid.New(), uuid.New()
	s := newSystem(t, own, map[string]string{"AUDIT_READ_AUDIT": "on", "AUDIT_READ_AUDIT_OFF": quiet.String()})
	stream := withStream(t, s)
	key, other := s.key(t, app.KeySpec{Tenant: tenant, Name: "reader"}), s.key(t, app.KeySpec{Tenant: tenant})
	limited := s.key(t, app.KeySpec{Tenant: tenant, ResourceTypes: []string{"invoice"}})
	silent := s.key(t, app.KeySpec{Tenant: quiet})
	rows := []row{newRow(tenant, november), newRow(tenant, november.Add(time.Second)), newRow(tenant, november.Add(2*time.Second))}
	s.insert(t, rows...)

	filter := "?action=invoice.approve&from=2026-01-01T00:00:00Z&limit=1"
	res, body := s.get(t, key.Key, tenant, filter)
	var page struct {
		NextCursor string `json:"next_cursor"`
	}
	must(t, json.Unmarshal([]byte(body), &page))
	got := reads(t, stream, tenant, 1)[0]
	if m := got.Metadata; got.Action != "audit_log.read" || got.ActorID != key.ID || got.ActorType != "api_key" || got.ResourceType != "audit_log" ||
		got.ResourceID != tenant.String() || m.KeyName != "reader" || m.Decision != "allow" || len(m.Policies) == 0 || m.Route != "/v1/audit-log" ||
		m.Limit != 1 || m.Returned != 1 || m.RequestID != res.Header.Get("X-Request-Id") || m.SourceIP != "127.0.0.1" || m.Continued ||
		m.Filter["from"] != "2026-01-01T00:00:00Z" || !slices.Equal(m.Filter["action"].([]any), []any{"invoice.approve"}) {
		t.Errorf("first page: %+v", got)
	}
	s.get(t, key.Key, tenant, filter+"&cursor="+page.NextCursor) // the walk goes on: no event
	s.get(t, other.Key, tenant, filter+"&cursor="+page.NextCursor)
	if got := reads(t, stream, tenant, 2)[1]; !got.Metadata.Continued || got.ActorID != other.ID {
		t.Errorf("a cursor in other hands: %+v", got)
	}
	s.get(t, key.Key, tenant, "/"+rows[0].id.String())
	if got := reads(t, stream, tenant, 3)[2]; got.Metadata.EventID != rows[0].id.String() || got.Metadata.Returned != 1 {
		t.Errorf("a single event: %+v", got)
	}
	s.get(t, limited.Key, tenant, "?resource_type=payroll")
	if got := reads(t, stream, tenant, 4)[3]; got.Metadata.Decision != "deny" || got.Metadata.Code == "" || len(got.Metadata.Policies) == 0 || got.Metadata.Returned != 0 {
		t.Errorf("a denial: %+v", got)
	}
	s.get(t, key.Key, theirs, "")
	if got := reads(t, stream, tenant, 5)[4]; got.Metadata.Code != "tenant_mismatch" || got.Metadata.TenantAsked != theirs.String() {
		t.Errorf("a foreign tenant: %+v", got)
	}
	reads(t, stream, theirs, 0)
	s.get(t, key.Key, tenant, "?limit=0") // nothing was read, nobody was denied
	s.get(t, silent.Key, quiet, "")
	if got := reads(t, stream, quiet, 1)[0]; got.Action != "audit_log.read_audit_disabled" || got.ActorType != "service" || got.Metadata.Setting != "AUDIT_READ_AUDIT_OFF" {
		t.Errorf("a tenant switched off: %+v", got)
	}
	reads(t, stream, tenant, 5)
}

// Ensure an export is recorded when it begins, so that nobody can get out of it by going away, and again when it ends, with what was sent.
func TestExportsAreRecorded(t *testing.T) {
	own := stacktest.Start(t)
	tenant := uuid.New()
	s := newSystem(t, own, map[string]string{"AUDIT_READ_AUDIT": "on"})
	stream := withStream(t, s)
	key := s.key(t, app.KeySpec{Tenant: tenant})
	s.insert(t, newRow(tenant, november), newRow(tenant, november.Add(time.Second)))
	s.get(t, key.Key, tenant, "/export?format=csv&action=invoice.approve")
	got := reads(t, stream, tenant, 2)
	begun, ended := got[0], got[1]
	if begun.Action != "audit_log.export" || begun.Metadata.ExportID == "" || begun.Metadata.Outcome != "" || ended.Action != "audit_log.export_ended" ||
		ended.Metadata.ExportID != begun.Metadata.ExportID || ended.Metadata.Outcome != "complete" || ended.Metadata.Returned != 2 || ended.ActorID != key.ID ||
		len(ended.Metadata.Filter) != 1 {
		t.Errorf("an export: %+v %+v", begun, ended)
	}
	must(t, s.db.Exec(t.Context(), fmt.Sprintf("INSERT INTO event_log SELECT %d, '%s', toDateTime64('2026-11-01 00:00:00', 6, 'UTC') - number, generateUUIDv4(), 'a', 'u', 'x', 'r', toString(number), "+
		"'{\"text\":\"' || repeat('x', 300) || '\"}', NULL, now64(6), number + 1 FROM numbers(150000)", events.Partition(tenant, app.DefaultPartitions), tenant)))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/export", nil)
	must(t, err)
	req.Header = http.Header{"X-Api-Key": {key.Key}, "X-Tenant-Id": {tenant.String()}, "Accept-Encoding": {"identity"}}
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	_, err = res.Body.Read(make([]byte, 100))
	must(t, err)
	must(t, res.Body.Close()) // the client goes
	got = reads(t, stream, tenant, 4)
	if m := got[3].Metadata; got[2].Action != "audit_log.export" || got[3].Action != "audit_log.export_ended" || m.Outcome != "broken" || m.Returned == 0 || m.Returned > 150_000 ||
		m.ExportID != got[2].Metadata.ExportID {
		t.Errorf("a broken export: %+v %+v", got[2], got[3])
	}
	limited := s.key(t, app.KeySpec{Tenant: tenant, ResourceTypes: []string{"invoice"}})
	s.get(t, limited.Key, tenant, "/export?resource_type=payroll")
	if got := reads(t, stream, tenant, 5)[4]; got.Action != "audit_log.export" || got.Metadata.Decision != "deny" {
		t.Errorf("a denied export: %+v", got)
	}
}

// Ensure nothing is added to a tenant's log unless the operator says so, for all tenants or for this one.
func TestReadsAreNotRecordedByDefault(t *testing.T) {
	own := stacktest.Start(t)
	chosen := uuid.New()
	s := newSystem(t, own, map[string]string{"AUDIT_READ_AUDIT_ON": chosen.String()})
	stream := withStream(t, s)
	tenant := uuid.New()
	key := s.key(t, app.KeySpec{Tenant: tenant})
	s.get(t, key.Key, tenant, "")
	s.get(t, key.Key, uuid.New(), "")
	watched := s.key(t, app.KeySpec{Tenant: chosen})
	s.get(t, watched.Key, chosen, "")
	reads(t, stream, chosen, 1)
	reads(t, stream, tenant, 0)
}

// Ensure reads go on while NATS is away, their events come afterwards, and that where recording is required there is no read without it.
func TestReadsWithoutNATS(t *testing.T) {
	own := stacktest.Start(t)
	relaxed := newSystem(t, own, map[string]string{"AUDIT_READ_AUDIT": "on"})
	strict := newSystem(t, own, map[string]string{"AUDIT_READ_AUDIT": "on", "AUDIT_READ_AUDIT_REQUIRED": "true"})
	stream := withStream(t, relaxed)
	tenant, theirs := uuid.New(), uuid.New()
	key := relaxed.key(t, app.KeySpec{Tenant: tenant})
	for _, s := range []*system{relaxed, strict} {
		s.insert(t, newRow(tenant, november))
		if res, body := s.get(t, key.Key, tenant, ""); res.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", res.StatusCode, body)
		}
	}
	reads(t, stream, tenant, 2)
	own.StopNATS()
	began := time.Now()
	if res, body := relaxed.getOnce(t, key.Key, tenant, "?limit=7"); res.StatusCode != http.StatusOK || !strings.Contains(body, "inv_1") {
		t.Errorf("without NATS: %d %s", res.StatusCode, body)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the read waited %s", took)
	}
	for _, c := range []struct{ tenant uuid.UUID }{{tenant}, {theirs}} { // a denial too
		res, body := strict.getOnce(t, key.Key, c.tenant, "")
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || strings.Contains(body, "inv_1") {
			t.Errorf("required, without NATS: %d %s", res.StatusCode, body)
		}
	}
	must(t, own.StartNATS(t.Context()))
	deadline := time.Now().Add(2 * patience)
	for found := false; !found; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if info, err := stream.Info(ctx); err == nil && info.State.Msgs > 0 {
			found = slices.ContainsFunc(readsNow(t, stream, tenant), func(e readEvent) bool { return e.Metadata.Limit == 7 })
		}
		cancel()
		if time.Now().After(deadline) {
			t.Fatal("the event of a read without NATS never came")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if res, body := strict.getOnce(t, key.Key, tenant, ""); res.StatusCode != http.StatusOK {
		t.Errorf("required, with NATS: %d %s", res.StatusCode, body)
	}
}
