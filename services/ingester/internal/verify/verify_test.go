package verify_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/ledger"
	"example.com/auditlog/services/ingester/internal/verify"
	"example.com/auditlog/services/ingester/internal/verify/replay"
	"example.com/auditlog/services/ingester/internal/verify/verifytest"
)

// forms are the three ways to verify, the last one for the tenant that the faults are about.
var forms = map[string]verify.Options{"shallow": {}, "deep": {Deep: true}, "tenant": {Tenant: &tenants[0]}}

// counts is what is expected of each form.
type counts map[string]map[verify.Kind]uint64

// everywhere expects the same of each form.
func everywhere(k verify.Kind, n uint64) counts {
	return counts{"shallow": {k: n}, "deep": {k: n}, "tenant": {k: n}}
}

// Ensure each fault is found, by the forms that can see it, and nothing else is.
func TestFaults(t *testing.T) {
	const ofTenant = "tenant_id = '11111111-2222-4333-8444-555555555550'"
	for _, tc := range []struct {
		name  string
		fault func(t *testing.T, f *fixture)
		want  counts
	}{
		{"none", func(*testing.T, *fixture) {}, counts{}},
		{"rows deleted", func(t *testing.T, f *fixture) {
			f.Exec(t, "ALTER TABLE event_log DELETE WHERE "+ofTenant+" AND stream_seq IN (4, 7) SETTINGS mutations_sync = 1")
		}, everywhere(verify.Missing, 2)},
		{"a row inserted again under another token", func(t *testing.T, f *fixture) {
			f.Exec(t, "SYSTEM STOP MERGES event_log")
			f.Exec(t, "INSERT INTO event_log SELECT * FROM (SELECT * FROM event_log WHERE "+ofTenant+" AND stream_seq = 4)")
		}, everywhere(verify.Duplicate, 1)},
		{"a row changed", func(t *testing.T, f *fixture) {
			f.Exec(t, "ALTER TABLE event_log UPDATE resource_id = 'other', reasoning = '' WHERE "+ofTenant+" AND stream_seq = 4 SETTINGS mutations_sync = 1")
		}, counts{"deep": {verify.Differing: 1}, "tenant": {verify.Differing: 1}}},
		{"an invented row within a batch", func(t *testing.T, f *fixture) {
			// Sequence 2 is of another partition.
			f.Exec(t, "INSERT INTO event_log SELECT * REPLACE (2 AS stream_seq, generateUUIDv4() AS id) FROM (SELECT * FROM event_log WHERE "+ofTenant+" AND stream_seq = 4)")
		}, everywhere(verify.Surplus, 1)},
		{"an invented row after everything", func(t *testing.T, f *fixture) {
			f.Exec(t, "INSERT INTO event_log SELECT * REPLACE (1000000 AS stream_seq, generateUUIDv4() AS id) FROM (SELECT * FROM event_log WHERE "+ofTenant+" AND stream_seq = 4)")
		}, everywhere(verify.Surplus, 1)},
		{"an invented partition", func(t *testing.T, f *fixture) {
			f.Exec(t, "INSERT INTO event_log SELECT * REPLACE (99 AS partition) FROM (SELECT * FROM event_log WHERE "+ofTenant+" AND stream_seq = 4)")
		}, counts{"shallow": {verify.Surplus: 1}, "deep": {verify.Surplus: 1}}},
		{"the whole table gone", func(t *testing.T, f *fixture) {
			f.Exec(t, "TRUNCATE TABLE event_log")
		}, counts{"shallow": {verify.Missing: 90}, "deep": {verify.Missing: 90}, "tenant": {verify.Missing: 30}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			verify.LowerLimits(t, 3, 10) // so that batches fall into several groups and chunks
			f := setup(t)
			f.Fill(t, 90)
			tc.fault(t, f)
			for name, opts := range forms {
				r := f.Verify(t, opts)
				want := tc.want[name]
				if !maps.Equal(r.Counts, want) || r.OK() != (len(want) == 0) {
					t.Errorf("%s: %v, want %v\n%s", name, r.Counts, want, text(t, r))
				}
			}
		})
	}
}

func text(t *testing.T, r *verify.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Ensure every message is accounted for: a row, a dead letter, or a counted duplicate, merged away or not.
func TestEveryMessageAccounted(t *testing.T) {
	f := setup(t)
	f.Fill(t, 90)
	for i := range 5 {
		f.Publish(t, tenants[0], event(i*3)) // copies of what tenant 0 has
	}
	f.Publish(t, tenants[0], []byte("not an event"))
	f.Publish(t, tenants[1], []byte(`{"id":1}`))
	f.Ingest(t)
	f.Exec(t, "OPTIMIZE TABLE event_log FINAL")
	r := f.Verify(t, verify.Options{Deep: true})
	if !r.OK() || r.Messages != 97 || r.Rows != 90 || r.Folded != 5 || r.DeadLetters != 2 {
		t.Errorf("deep: %s", text(t, r))
	}
	if r = f.Verify(t, verify.Options{}); !r.OK() || r.Folded != 5 || r.Messages != 97 || r.DeadLetters != 2 || r.Rows != 90 {
		t.Errorf("shallow: %s", text(t, r))
	}
	if r = f.Verify(t, verify.Options{Tenant: &tenants[0]}); !r.OK() || r.Messages != 36 || r.Folded != 5 || r.DeadLetters != 1 {
		t.Errorf("tenant: %s", text(t, r))
	}
	// A dead letter that nobody delivered.
	if err := f.JS.DeleteStream(t.Context(), events.StreamDLQ); err != nil {
		t.Fatal(err)
	}
	if _, err := f.JS.CreateStream(t.Context(), jetstream.StreamConfig{Name: events.StreamDLQ, Subjects: []string{events.SubjectDLQ}}); err != nil {
		t.Fatal(err)
	}
	if r = f.Verify(t, verify.Options{Deep: true}); r.Counts[verify.Undelivered] != 2 {
		t.Errorf("without dead letters: %s", text(t, r))
	}
}

// Ensure a batch that is in the ledger and not yet in the table is pending, and messages nobody has read wait; and that both are no findings.
func TestPendingAndWaiting(t *testing.T) {
	f := setup(t)
	f.Fill(t, 90)
	for i := range 3 {
		f.Publish(t, tenants[0], event(1000+i))
	}
	p := events.Partition(tenants[0], partitions)
	f.Append(t, p, f.last(t, p), f.after(t, p)[:2])
	for _, opts := range []verify.Options{{}, {Deep: true}} {
		if r := f.Verify(t, opts); !r.OK() || r.Pending != 2 || r.Waiting != 1 {
			t.Errorf("%+v: %s", opts, text(t, r))
		}
	}
	// Once the position says that it is committed, it is missing.
	if err := f.Positions.Put(t.Context(), p, ledger.Position{Batch: f.last(t, p).Batch}); err != nil {
		t.Fatal(err)
	}
	for name, opts := range forms {
		if r := f.Verify(t, opts); r.Counts[verify.Missing] != 2 {
			t.Errorf("%s: %s", name, text(t, r))
		}
	}
}

// last is the partition's last entry.
func (f *fixture) last(t *testing.T, p int) ledger.Record {
	t.Helper()
	last, err := f.Ledger.Last(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return last
}

// after reads the messages that no batch has yet.
func (f *fixture) after(t *testing.T, p int) (out []replay.Message) {
	t.Helper()
	err := f.Reader.Messages(t.Context(), p, nil, f.last(t, p).LastSeq+1, 1<<40, func(m replay.Message) error {
		out = append(out, m)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Ensure a ledger that was tampered with is found: an entry out of the chain, a wrong hash, messages left out.
func TestLedgerFaults(t *testing.T) {
	p := events.Partition(tenants[0], partitions)
	for _, tc := range []struct {
		name   string
		change func(e *ledger.Entry)
		want   counts
	}{
		{"hash", func(e *ledger.Entry) { e.Hash[0]++ }, counts{"deep": {verify.Changed: 1}}},
		{"previous hash", func(e *ledger.Entry) { e.PrevHash[0]++ }, counts{"shallow": {verify.Chain: 1}, "deep": {verify.Chain: 1, verify.Changed: 1}, "tenant": {verify.Chain: 1}}},
		{"batch number", func(e *ledger.Entry) { e.Batch++ }, everywhere(verify.Chain, 1)},
		{"messages skipped", func(e *ledger.Entry) { e.FirstSeq += 3 }, counts{
			"shallow": {verify.Skipped: 1, verify.Surplus: 1, verify.Changed: 1}, "deep": {verify.Skipped: 1, verify.Surplus: 1, verify.Changed: 1}}},
		{"rows", func(e *ledger.Entry) { e.Rows--; e.Rejected++ }, counts{"shallow": {verify.Changed: 1}, "deep": {verify.Changed: 1}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := setup(t)
			f.Fill(t, 90)
			for i := range 9 {
				f.Publish(t, tenants[i%3], event(1000+i))
			}
			batch := f.after(t, p)
			e := verifytest.Entry(p, f.last(t, p), batch)
			tc.change(&e)
			r, err := f.Ledger.Append(t.Context(), e)
			if err != nil {
				t.Fatal(err)
			}
			f.Insert(t, p, r.Batch, batch)
			if err := f.Positions.Put(t.Context(), p, ledger.Position{Batch: r.Batch}); err != nil {
				t.Fatal(err)
			}
			f.Ingest(t)
			for name, opts := range forms {
				if r := f.Verify(t, opts); !maps.Equal(r.Counts, tc.want[name]) {
					t.Errorf("%s: %v, want %v\n%s", name, r.Counts, tc.want[name], text(t, r))
				}
			}
		})
	}
}

// Ensure an unreadable entry is a finding, not the end.
func TestLedgerUnreadable(t *testing.T) {
	f := setup(t)
	f.Fill(t, 90)
	if _, err := f.JS.Publish(t.Context(), events.LedgerSubject(events.Partition(tenants[0], partitions)), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if r := f.Verify(t, verify.Options{}); r.Counts[verify.Chain] != 1 || len(r.Counts) != 1 {
		t.Errorf("%s", text(t, r))
	}
}

// Ensure a trimmed stream is checked by counts: folded copies excuse, a lost part does not.
func TestTrimmed(t *testing.T) {
	f := setup(t)
	f.Fill(t, 90)
	for i := range 5 {
		f.Publish(t, tenants[0], event(i*3))
	}
	f.Ingest(t)
	for i := range 30 {
		f.Publish(t, tenants[i%3], event(2000+i))
	}
	f.Ingest(t)
	f.Exec(t, "OPTIMIZE TABLE event_log FINAL")
	s, err := f.JS.Stream(t.Context(), events.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context(), jetstream.WithPurgeSequence(101)); err != nil {
		t.Fatal(err)
	}
	for _, opts := range []verify.Options{{}, {Deep: true}} {
		if r := f.Verify(t, opts); !r.OK() || r.Unproven != 5 {
			t.Errorf("%+v: %s", opts, text(t, r))
		}
	}
	f.Exec(t, "ALTER TABLE event_log DELETE WHERE stream_seq <= 60 SETTINGS mutations_sync = 1")
	for _, opts := range []verify.Options{{}, {Deep: true}} {
		if r := f.Verify(t, opts); r.Counts[verify.Missing] < 50 {
			t.Errorf("%+v: %s", opts, text(t, r))
		}
	}
}

// Ensure one id with two times is told, and no finding.
func TestReusedID(t *testing.T) {
	f := setup(t)
	f.Publish(t, tenants[0], event(1))
	f.Publish(t, tenants[0], bytes.Replace(event(1), []byte(`"created_at":"2025`), []byte(`"created_at":"2024`), 1))
	f.Ingest(t)
	r := f.Verify(t, verify.Options{Deep: true})
	if !r.OK() || len(r.ReusedIDs) != 1 || r.ReusedIDs[0].Tenant != tenants[0] || r.ReusedIDs[0].Times != 2 {
		t.Errorf("%s", text(t, r))
	}
	if !strings.Contains(text(t, r), "2 events of different times") {
		t.Errorf("the text does not tell: %s", text(t, r))
	}
}

// Ensure an empty system is in order, and that the report reads well for machines.
func TestEmptyAndJSON(t *testing.T) {
	f := setup(t)
	r := f.Verify(t, verify.Options{})
	out, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(out); !strings.Contains(got, `"ok":true`) || !strings.Contains(got, `"findings":[]`) || !strings.Contains(got, `"counts":{}`) {
		t.Errorf("%s", got)
	}
	unknown := uuid.New()
	if r := f.Verify(t, verify.Options{Tenant: &unknown}); !r.OK() || r.Messages != 0 {
		t.Errorf("%s", text(t, r))
	}
}

// Ensure many findings are counted and not all kept.
func TestManyFindings(t *testing.T) {
	f := setup(t)
	f.Fill(t, 600)
	f.Exec(t, "TRUNCATE TABLE event_log")
	start := time.Now()
	r := f.Verify(t, verify.Options{})
	if r.Counts[verify.Missing] != 600 || len(r.Findings) != 100 {
		t.Errorf("%d counted, %d kept", r.Counts[verify.Missing], len(r.Findings))
	}
	if !strings.HasSuffix(text(t, r), fmt.Sprintf("NOT OK: %d missing\n", 600)) {
		t.Errorf("%s", text(t, r))
	}
	t.Logf("took %s", time.Since(start))
}
