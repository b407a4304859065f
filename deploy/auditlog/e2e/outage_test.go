package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/deploy/stack"
	"example.com/auditlog/deploy/stack/stacktest"
	"example.com/auditlog/pkg/events"
)

// clickhouse runs SQL on the engine itself, as an operator would.
func (s *system) clickhouse(t *testing.T, sql string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.ClickHouseHTTPURL()+"/?database=audit", strings.NewReader(sql))
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", sql, body)
	}
	return strings.TrimSpace(string(body))
}

func someEvent(tenant uuid.UUID, i int) events.Event {
	return events.Event{
		ID: uuid.New(), TenantID: tenant, ActorID: fmt.Sprint(i), ActorType: "user", Action: "thing.do", ResourceType: "thing", ResourceID: "r", Metadata: []byte("{}"),
		CreatedAt: time.Now().Truncate(time.Microsecond),
	}
}

// Ensure a table that takes no rows, for want of disk or because it has too many parts, holds events back in the stream, and
// that they all come, once, when it takes rows again, without a hand.
func TestTableRefuses(t *testing.T) {
	s := startSystem(t)
	pub, err := events.NewPublisher(s.nc)
	must(t, err)
	for name, c := range map[string]struct{ fault, cure, metric string }{
		"DiskFull": {
			"ALTER TABLE event_log MODIFY SETTING min_free_disk_bytes_to_perform_insert = 1000000000000000",
			"ALTER TABLE event_log RESET SETTING min_free_disk_bytes_to_perform_insert", "NOT_ENOUGH_SPACE",
		},
		"TooManyParts": {
			"ALTER TABLE event_log MODIFY SETTING parts_to_throw_insert = 1, parts_to_delay_insert = 1",
			"ALTER TABLE event_log RESET SETTING parts_to_throw_insert, parts_to_delay_insert", "TOO_MANY_PARTS",
		},
	} {
		t.Run(name, func(t *testing.T) {
			tenant := uuid.New()
			key := s.key(t, tenant)
			var want []events.Event
			publish := func(n int) {
				for range n {
					ev := someEvent(tenant, len(want))
					must(t, pub.Publish(t.Context(), ev))
					want = append(want, ev)
				}
			}
			publish(10)
			s.walkUntil(t, key, tenant, 100, len(want))
			s.clickhouse(t, c.fault)
			publish(100)
			s.waitFor(t, "an insert is refused", func() bool {
				return s.clickhouse(t, "SELECT sum(value) FROM system.errors WHERE name = '"+c.metric+"'") != "0"
			})
			if got := s.walk(t, key, tenant, url.Values{}); len(got) == len(want) {
				t.Error("all rows came although the table refused them")
			}
			s.clickhouse(t, c.cure)
			compareWalk(t, tenant, want, s.walkUntil(t, key, tenant, 100, len(want)))
			if n := s.clickhouse(t, fmt.Sprintf("SELECT count() FROM event_log WHERE tenant_id = '%s'", tenant)); n != fmt.Sprint(len(want)) {
				t.Errorf("%s rows in the table for %d events", n, len(want))
			}
		})
	}
}

// Ensure a full stream refuses events at once, and that every event it took is read.
func TestStreamFull(t *testing.T) {
	s := startSystemWith(t, []string{"AUDIT_STREAM_MAX_BYTES=1048576"})
	pub, err := events.NewPublisher(s.nc)
	must(t, err)
	tenant := uuid.New()
	var want []events.Event
	for {
		ev := someEvent(tenant, len(want))
		ev.Metadata = []byte(`{"filler":"` + strings.Repeat("x", 10_000) + `"}`)
		if err = pub.Publish(t.Context(), ev); err != nil {
			break
		}
		if want = append(want, ev); len(want) > 1000 {
			t.Fatal("the stream took 10 MB although it is bounded to one")
		}
	}
	if !errors.Is(err, events.ErrRefused) {
		t.Errorf("a full stream: %v", err)
	}
	compareWalk(t, tenant, want, s.walkUntil(t, s.key(t, tenant), tenant, 100, len(want)))
}

// Ensure a NATS whose disk is full acknowledges nothing that is not stored and loses nothing that it did acknowledge, that the ingester says so and goes
// on, and that everything is there once after NATS was given room and restarted.
func TestNATSDiskFull(t *testing.T) {
	s := startSystemWith(t, nil, func(o *stack.Options) { o.NATSChild = true })
	at := serveOps(t, s.metrics, s.checks)
	var pubs []*events.Publisher // atomic batches have files of their own, apart from the stream's
	for _, size := range []int{1, events.MaxBatch} {
		pub, err := events.NewPublisher(s.nc, events.WithMaxBatch(size), events.WithAckWait(500*time.Millisecond), events.WithRetryFor(2*time.Second))
		must(t, err)
		pubs = append(pubs, pub)
	}
	pub := pubs[0]
	tenant := uuid.New()
	key := s.key(t, tenant)
	var want, refused []events.Event
	for range 20 {
		ev := someEvent(tenant, len(want))
		must(t, pub.Publish(t.Context(), ev))
		want = append(want, ev)
	}
	s.walkUntil(t, key, tenant, 100, len(want))

	makeRoom := fillDisk(t, natsPID(t))
	var futures []*events.Future
	for i := range 40 {
		refused = append(refused, someEvent(tenant, i))
		f, err := pubs[i%2].PublishAsync(t.Context(), refused[i])
		must(t, err)
		futures = append(futures, f)
	}
	for i, f := range futures {
		if ack, err := f.Wait(t.Context()); !errors.Is(err, events.ErrUnconfirmed) {
			t.Errorf("event %d on a full disk: %+v, %v", i, ack, err)
		}
	}
	s.waitFor(t, "the ingester knows", func() bool { return s.metric(t, "audit_stream_writable", nil) == 0 })
	s.waitFor(t, "readiness names the stream", func() bool { r := askReady(t, at); return slices.Contains(r.failing(t), "ingester-stream") })
	compareWalk(t, tenant, want, s.walk(t, key, tenant, url.Values{})) // reading goes on

	makeRoom()
	must(t, s.StopNATS())
	must(t, s.StartNATS(t.Context()))
	for _, ev := range refused {
		s.waitFor(t, "an event is taken", func() bool { return pub.Publish(t.Context(), ev) == nil })
		want = append(want, ev)
	}
	compareWalk(t, tenant, want, s.walkUntil(t, key, tenant, 100, len(want)))
	s.waitFor(t, "the ingester knows that the stream can be written", func() bool { return s.metric(t, "audit_stream_writable", nil) == 1 })
	waitFailing(t, at)
	if n := s.clickhouse(t, "SELECT count(), uniqExact(id) FROM event_log"); n != fmt.Sprintf("%d\t%d", len(want), len(want)) {
		t.Errorf("%s rows and ids in the table for %d events", n, len(want))
	}
}

// waitFor polls until ok, or fails.
func (s *system) waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain until %s", patience, what)
		}
	}
}

// Ensure a new start of NATS on an empty disk neither loses new events, whose numbers and batches look like old ones to the
// table, nor takes the old ones away.
func TestNATSDiskLost(t *testing.T) {
	dir, tenant := t.TempDir(), uuid.New()
	var want []events.Event
	round := func(t *testing.T) {
		s := startSystemWith(t, nil, stacktest.Dir(dir))
		pub, err := events.NewPublisher(s.nc)
		must(t, err)
		for range 10 {
			ev := someEvent(tenant, len(want))
			must(t, pub.Publish(t.Context(), ev))
			want = append(want, ev)
		}
		compareWalk(t, tenant, want, s.walkUntil(t, s.key(t, tenant), tenant, 100, len(want)))
	}
	t.Run("Before", round)
	must(t, os.RemoveAll(filepath.Join(dir, "nats")))
	t.Run("After", round)
}
