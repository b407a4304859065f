package app_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/query/app"
)

// committed writes the position of a tenant's partition as the ingester does.
func (s *system) committed(t *testing.T, tenant uuid.UUID, seq uint64) {
	t.Helper()
	js, err := jetstream.New(s.nc)
	must(t, err)
	kv, err := js.CreateOrUpdateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "audit_positions"})
	must(t, err)
	_, err = kv.Put(t.Context(), strconv.Itoa(events.Partition(tenant, app.DefaultPartitions)), fmt.Appendf(nil, `{"batch":1,"last_seq":%d}`, seq))
	must(t, err)
}

type feedPage struct {
	Data []struct {
		ID         string
		IngestedAt string `json:"ingested_at"`
	}
	NextCursor string `json:"next_cursor"`
	HasMore    bool   `json:"has_more"`
}

func (s *system) feed(t *testing.T, key string, tenant uuid.UUID, query string) (int, feedPage) {
	t.Helper()
	res, body := s.get(t, key, tenant, "/feed?"+query)
	var p feedPage
	must(t, json.Unmarshal([]byte(body), &p))
	return res.StatusCode, p
}

// Ensure the feed gives what is committed and nothing beyond, in the order of the stream, and late events and copies as it promises.
func TestFeed(t *testing.T) {
	s := newSystem(t, stacktest.Start(t), nil)
	tenant := uuid.New()
	key := s.key(t, app.KeySpec{Tenant: tenant}).Key
	first, second, late, pending := newRow(tenant, november), newRow(tenant, november.Add(time.Second)), newRow(tenant, november.AddDate(-1, 0, 0)), newRow(tenant, november)
	again := first
	again.seq = sequences.Add(1)
	second.seq, late.seq, pending.seq = sequences.Add(1), sequences.Add(1), sequences.Add(1)
	s.insert(t, first, second, late, again, pending)
	s.committed(t, tenant, late.seq)

	status, p := s.feed(t, key, tenant, "limit=1")
	if status != 200 || len(p.Data) != 1 || p.Data[0].ID != first.id.String() || !p.HasMore || p.Data[0].IngestedAt != "2026-11-23T01:02:04.123456Z" {
		t.Fatalf("%d %+v", status, p)
	}
	_, p = s.feed(t, key, tenant, "limit=5&cursor="+p.NextCursor)
	if len(p.Data) != 2 || p.Data[0].ID != second.id.String() || p.Data[1].ID != late.id.String() || p.HasMore {
		t.Fatalf("%+v", p)
	}
	upToDate := p.NextCursor
	_, p = s.feed(t, key, tenant, "cursor="+upToDate)
	if len(p.Data) != 0 || p.HasMore || p.NextCursor == "" {
		t.Fatalf("%+v", p)
	}
	_, p = s.feed(t, key, tenant, "start=now")
	if len(p.Data) != 0 || p.HasMore {
		t.Fatalf("from now on: %+v", p)
	}

	got := make(chan feedPage, 1)
	go func() { _, p := s.feed(t, key, tenant, "wait=30s&cursor="+upToDate); got <- p }()
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	s.committed(t, tenant, pending.seq)
	p = <-got
	if took := time.Since(began); len(p.Data) != 1 || p.Data[0].ID != pending.id.String() || p.HasMore || took > 5*time.Second {
		t.Errorf("a feed that waits: %+v after %s", p, took)
	}
	began = time.Now()
	_, p = s.feed(t, key, tenant, "wait=300ms&cursor="+p.NextCursor)
	if took := time.Since(began); len(p.Data) != 0 || p.HasMore || took < 250*time.Millisecond || took > 5*time.Second {
		t.Errorf("a wait for nothing: %+v after %s", p, took)
	}
}

// Ensure each fault of a feed's or an export's parameters is named, and that cursors of list and feed are not taken for each other.
func TestFeedAndExportFaults(t *testing.T) {
	s := newSystem(t, shared, nil)
	tenant := uuid.New()
	key := s.key(t, app.KeySpec{Tenant: tenant}).Key
	s.insert(t, newRow(tenant, november), newRow(tenant, november))
	s.committed(t, tenant, sequences.Load())
	_, body := s.get(t, key, tenant, "?limit=1")
	var list feedPage
	must(t, json.Unmarshal([]byte(body), &list))
	_, feed := s.feed(t, key, tenant, "")
	for query, want := range map[string]string{
		"/feed?cursor=" + list.NextCursor:                           "invalid_cursor",
		"?cursor=" + feed.NextCursor:                                "invalid_cursor",
		"/feed?actor_id=x&cursor=" + feed.NextCursor:                "invalid_cursor",
		"/feed?wait=soon":                                           "invalid_parameter",
		"/feed?wait=-1s":                                            "invalid_parameter",
		"/feed?wait=30":                                             "invalid_parameter",
		"/feed?start=yesterday":                                     "invalid_parameter",
		"/feed?start=now&cursor=" + feed.NextCursor:                 "invalid_parameter",
		"/feed?format=csv":                                          "invalid_parameter",
		"/export?format=xml":                                        "invalid_parameter",
		"/export?limit=5":                                           "invalid_parameter",
		"/export?cursor=" + url.QueryEscape(list.NextCursor):        "invalid_parameter",
		"/export?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z": "invalid_parameter",
	} {
		res, body := s.get(t, key, tenant, query)
		if res.StatusCode != 400 || !strings.Contains(body, `"code":"`+want+`"`) {
			t.Errorf("%s: %d %s", query, res.StatusCode, body)
		}
	}
}

// Ensure a feed says what it knows while NATS is away, and never that it is up to date.
func TestFeedWithoutNATS(t *testing.T) {
	own := stacktest.Start(t)
	s := newSystem(t, own, nil)
	tenant := uuid.New()
	key := s.key(t, app.KeySpec{Tenant: tenant}).Key
	s.insert(t, newRow(tenant, november))
	s.committed(t, tenant, sequences.Load())
	status, before := s.feed(t, key, tenant, "")
	if status != 200 || len(before.Data) != 1 || before.HasMore {
		t.Fatalf("%d %+v", status, before)
	}
	must(t, own.StopNATS())
	status, p := s.feed(t, key, tenant, "")
	if status != 200 || len(p.Data) != 1 || !p.HasMore {
		t.Errorf("what is known: %d %+v", status, p)
	}
	if status, p = s.feed(t, key, tenant, "wait=10s&cursor="+p.NextCursor); status != 503 {
		t.Errorf("nothing is known: %d %+v", status, p)
	}
}

// Ensure both formats hold everything, compressed or not, and say that they are whole.
func TestExport(t *testing.T) {
	s := newSystem(t, shared, nil)
	tenant := uuid.New()
	key := s.key(t, app.KeySpec{Tenant: tenant}).Key
	rows := make([]row, 2500)
	for i := range rows {
		rows[i] = newRow(tenant, november.Add(time.Duration(i)*time.Second))
	}
	rows[2499].actor = `=HYPERLINK("x")`
	s.insert(t, rows...)
	s.get(t, key, tenant, "")
	for _, format := range []string{"ndjson", "csv"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/export?resource_type=invoice&format="+format, nil)
		must(t, err)
		req.Header.Set("X-API-Key", key)
		req.Header.Set("X-Tenant-ID", tenant.String())
		res, err := http.DefaultClient.Do(req) // asks for gzip by itself
		must(t, err)
		text, err := io.ReadAll(res.Body)
		must(t, err)
		must(t, res.Body.Close())
		lines := strings.Split(strings.TrimRight(string(text), "\r\n"), "\n")
		if res.StatusCode != 200 || !res.Uncompressed || len(lines) != 2501 || res.Trailer.Get("Audit-Complete") != "true; count=2500" ||
			!strings.HasPrefix(res.Header.Get("Content-Disposition"), "attachment; filename=") {
			t.Fatalf("%s: %d, gzip %v, %d lines, trailer %q, %v", format, res.StatusCode, res.Uncompressed, len(lines), res.Trailer, res.Header)
		}
		if format == "ndjson" && lines[2500] != `{"complete":true,"count":2500}` || format == "csv" && !strings.Contains(lines[1], `,"'=HYPERLINK(""x"")",`) {
			t.Errorf("%s: first %s, last %s", format, lines[0], lines[2500])
		}
	}
	res, body := s.get(t, key, tenant, "/export?actor_id=nobody")
	if res.StatusCode != 200 || body != `{"complete":true,"count":0}`+"\n" {
		t.Errorf("nothing: %d %q", res.StatusCode, body)
	}
}

// exported is a tenant's log of a hundred megabytes, and a key that may export it.
func (s *system) exported(t *testing.T) (tenant uuid.UUID, created app.CreatedKey) {
	t.Helper()
	tenant = uuid.New()
	created = s.key(t, app.KeySpec{Tenant: tenant})
	must(t, s.db.Exec(t.Context(), fmt.Sprintf("INSERT INTO event_log SELECT %d, '%s', toDateTime64('2026-11-01 00:00:00', 6, 'UTC') - number, generateUUIDv4(), 'a', 'u', 'x', 'r', toString(number), "+
		"'{\"text\":\"' || randomPrintableASCII(1) || repeat('x', 300) || '\"}', NULL, now64(6), number + 1 FROM numbers(300000)", events.Partition(tenant, app.DefaultPartitions), tenant)))
	s.get(t, created.Key, tenant, "?limit=1")
	return tenant, created
}

// openExport begins an export.
func (s *system) openExport(ctx context.Context, t *testing.T, key string, tenant uuid.UUID, format string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/export?format="+format, nil)
	must(t, err)
	req.Header = http.Header{"X-Api-Key": {key}, "X-Tenant-Id": {tenant.String()}, "Accept-Encoding": {"identity"}}
	res, err := http.DefaultClient.Do(req)
	must(t, err)
	return res
}

// waitIdle waits until the service runs no query.
func (s *system) waitIdle(t *testing.T) {
	t.Helper()
	for deadline, running := time.Now().Add(patience), uint64(1); running > 0; time.Sleep(10 * time.Millisecond) {
		must(t, s.db.QueryRow(t.Context(), "SELECT count() FROM system.processes WHERE query_id LIKE 'audit-%' AND current_database = currentDatabase()").Scan(&running))
		if time.Now().After(deadline) {
			t.Fatalf("%d queries still run for clients that have gone or stand still", running)
		}
	}
}

// Ensure an export that breaks is an error to whoever reads it, in either format, and that clients who go leave nothing running and do not
// hurt the service.
func TestBrokenExport(t *testing.T) {
	s := newSystem(t, shared, nil)
	tenant, created := s.exported(t)
	for range 10 { // clients that go
		ctx, cancel := context.WithCancel(t.Context())
		res := s.openExport(ctx, t, created.Key, tenant, "ndjson")
		_, _ = bufio.NewReader(res.Body).ReadString('\n')
		cancel()
		_ = res.Body.Close()
	}
	s.waitIdle(t)
	res := s.openExport(t.Context(), t, created.Key, tenant, "csv")
	reader := bufio.NewReader(res.Body)
	_, err := reader.ReadString('\n')
	must(t, err)
	if code := app.Main(t.Context(), []string{"keys", "revoke", created.ID}, s.getenv, nil, io.Discard, io.Discard); code != 0 {
		t.Fatalf("revoke: exit status %d", code)
	}
	time.Sleep(1500 * time.Millisecond) // the key is asked for again after a second
	_, err = io.Copy(io.Discard, reader)
	if !errors.Is(err, io.ErrUnexpectedEOF) || res.Trailer.Get("Audit-Complete") != "" {
		t.Errorf("the export of a key that was revoked meanwhile: %v, trailer %q", err, res.Trailer)
	}
	_ = res.Body.Close()
}

// Ensure a client that stops reading does not hold on to a query, and cannot take what it has for a whole export.
func TestStalledExport(t *testing.T) {
	s := newSystem(t, shared, map[string]string{"AUDIT_CLIENT_STALL": "200ms"})
	tenant, created := s.exported(t)
	res := s.openExport(t.Context(), t, created.Key, tenant, "ndjson")
	reader := bufio.NewReader(res.Body)
	_, err := reader.ReadString('\n')
	must(t, err)
	s.waitIdle(t)
	if rest, err := io.ReadAll(reader); err == nil || strings.Contains(string(rest), `"complete":true`) {
		t.Errorf("an export whose client stood still ends with %v, as if it were whole", err)
	}
	must(t, res.Body.Close())
}
