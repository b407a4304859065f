package clickhouse_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/clickhouse"
)

// row is what the table holds of one event.
type row struct {
	Partition    uint16    `ch:"partition"`
	TenantID     uuid.UUID `ch:"tenant_id"`
	CreatedAt    time.Time `ch:"created_at"`
	ID           uuid.UUID `ch:"id"`
	ActorID      string    `ch:"actor_id"`
	ActorType    string    `ch:"actor_type"`
	Action       string    `ch:"action"`
	ResourceType string    `ch:"resource_type"`
	ResourceID   string    `ch:"resource_id"`
	Metadata     string    `ch:"metadata"`
	Reasoning    *string   `ch:"reasoning"`
	IngestedAt   time.Time `ch:"ingested_at"`
	StreamSeq    uint64    `ch:"stream_seq"`
}

// Ensure every field comes back as it went in, whatever the compression, and that Reset leaves nothing of the block before.
func TestInsertKeepsEveryField(t *testing.T) {
	for _, params := range []string{"", "compress=lz4", "compress=zstd", "compress=lz4hc&compress_level=3"} {
		t.Run(params, func(t *testing.T) {
			f := setup(t, shared, params)
			c := new(clickhouse.Columns)
			appendEvent(c, 1, november)
			c.Reset()
			if c.Rows() != 0 || c.Bytes() != 0 {
				t.Fatalf("%d rows, %d bytes after Reset", c.Rows(), c.Bytes())
			}
			evs := oddEvents()
			for i := range evs {
				c.Append(i, tenant, uint64(i)+1<<63, time.UnixMicro(november+int64(i)), &evs[i])
			}
			if err := f.Insert(t.Context(), c, "odd:1"); err != nil {
				t.Fatal(err)
			}
			var rows []row
			if err := f.db.Select(t.Context(), &rows, "SELECT * FROM event_log ORDER BY stream_seq"); err != nil {
				t.Fatal(err)
			}
			if len(rows) != len(evs) {
				t.Fatalf("%d rows, want %d", len(rows), len(evs))
			}
			for i, got := range rows {
				checkRow(t, i, got, &evs[i])
			}
		})
	}
}

// oddEvents are events at the edges of what is allowed.
func oddEvents() []events.Raw {
	long := bytes.Repeat([]byte("é"), 128)
	return []events.Raw{
		{
			ID: uuid.MustParse("00112233-4455-6677-8899-aabbccddeeff"), CreatedAt: 0, ActorID: []byte("a"), ActorType: []byte("b"),
			Action: []byte("c"), ResourceType: []byte("d"), ResourceID: []byte("e"), Metadata: []byte("{}"),
		},
		{
			ID: uuid.Max, CreatedAt: november + 123456, ActorID: long, ActorType: long, Action: long, ResourceType: long, ResourceID: long,
			Metadata: []byte("{ \"a\" : " + strings.Repeat("1", 60<<10) + "}"), Reasoning: []byte{}, HasReasoning: true,
		},
		{
			ID: uuid.Nil, CreatedAt: november + 1, ActorID: []byte("'; DROP"), ActorType: []byte("\\"), Action: []byte("☃"),
			ResourceType: []byte("`"), ResourceID: []byte("\""), Metadata: []byte(`{"k":"\u0000"}`),
			Reasoning: bytes.Repeat([]byte("r\n"), 8<<10), HasReasoning: true,
		},
	}
}

func checkRow(t *testing.T, i int, got row, ev *events.Raw) {
	t.Helper()
	for field, pair := range map[string][2]string{
		"actor_id": {got.ActorID, string(ev.ActorID)}, "actor_type": {got.ActorType, string(ev.ActorType)},
		"action": {got.Action, string(ev.Action)}, "resource_type": {got.ResourceType, string(ev.ResourceType)},
		"resource_id": {got.ResourceID, string(ev.ResourceID)}, "metadata": {got.Metadata, string(ev.Metadata)},
	} {
		if pair[0] != pair[1] {
			t.Errorf("row %d: %s is %.40q, want %.40q", i, field, pair[0], pair[1])
		}
	}
	if got.ID != ev.ID || got.TenantID != tenant || int(got.Partition) != i || got.StreamSeq != uint64(i)+1<<63 {
		t.Errorf("row %d is %v", i, got)
	}
	if got.CreatedAt.UnixMicro() != ev.CreatedAt || got.IngestedAt.UnixMicro() != november+int64(i) {
		t.Errorf("row %d: created %v, ingested %v", i, got.CreatedAt, got.IngestedAt)
	}
	if (got.Reasoning != nil) != ev.HasReasoning || got.Reasoning != nil && *got.Reasoning != string(ev.Reasoning) {
		t.Errorf("row %d: reasoning %v, want %q", i, got.Reasoning, ev.Reasoning)
	}
}

// Ensure Retain leaves the rows it should, whole, whichever those are.
func TestRetain(t *testing.T) {
	for kept := range 1 << 3 {
		f := setup(t, shared, "")
		c := new(clickhouse.Columns)
		evs := oddEvents()
		keep := map[uint64]struct{}{}
		for i := range evs {
			seq := uint64(i) + 1<<63
			c.Append(i, tenant, seq, time.UnixMicro(november+int64(i)), &evs[i])
			if kept>>i&1 == 1 {
				keep[seq] = struct{}{}
			}
		}
		c.Retain(keep)
		if err := f.Insert(t.Context(), c, fmt.Sprint("retain:", kept)); err != nil {
			t.Fatal(err)
		}
		var rows []row
		if err := f.db.Select(t.Context(), &rows, "SELECT * FROM event_log ORDER BY stream_seq"); err != nil {
			t.Fatal(err)
		}
		if len(rows) != len(keep) || c.Rows() != len(keep) {
			t.Fatalf("%d rows, %d in the block, want %d", len(rows), c.Rows(), len(keep))
		}
		for _, got := range rows {
			i := int(got.Partition)
			if _, ok := keep[got.StreamSeq]; !ok {
				t.Fatalf("row %d should be gone", i)
			}
			checkRow(t, i, got, &evs[i])
		}
	}
}

// Ensure labels survive each width of the dictionary's keys.
func TestInsertManyLabels(t *testing.T) {
	for _, n := range []int{1, 1 << 8, 1<<8 + 1, 1 << 16, 1<<16 + 1} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			f := setup(t, shared, "")
			c := new(clickhouse.Columns)
			for i := range n {
				ev := events.Raw{CreatedAt: november, ActorType: []byte("user"), Action: fmt.Append(nil, i), Metadata: []byte("{}")}
				c.Append(0, tenant, uint64(i), time.UnixMicro(0), &ev)
			}
			if err := f.Insert(t.Context(), c, "labels"); err != nil {
				t.Fatal(err)
			}
			if good := f.number(t, "SELECT countIf(action = toString(stream_seq) AND actor_type = 'user') FROM event_log"); good != uint64(n) {
				t.Errorf("%d rows have their label, want %d", good, n)
			}
		})
	}
}

// Ensure a block is one part of each year, however many rows it has.
func TestInsertIsOnePartPerYear(t *testing.T) {
	f := setup(t, shared, "")
	f.exec(t, "SYSTEM STOP MERGES event_log")
	c := block(1, 100_000)
	for i := range uint64(150) { // more years than the server's default limit for one block
		appendEvent(c, 200_000+i, int64(i)*365*day)
	}
	if err := f.Insert(t.Context(), c, "p:1"); err != nil {
		t.Fatal(err)
	}
	if worst := f.number(t, `SELECT max(n) FROM (SELECT partition, count() AS n FROM system.parts
		WHERE database = currentDatabase() AND table = 'event_log' AND active GROUP BY partition)`); worst != 1 {
		t.Errorf("a year has %d parts, want 1", worst)
	}
	f.wantSeqs(t, 1, 100_000)
	if got := f.number(t, "SELECT count() FROM event_log"); got != 100_150 {
		t.Errorf("%d rows, want 100150", got)
	}
}

// Ensure the filters' index is there with the insert, for it bounds every page, and that of the ids with the first merge.
func TestInsertIndexes(t *testing.T) {
	f := setup(t, shared, "")
	f.exec(t, "SYSTEM STOP MERGES event_log")
	for batch := range uint64(2) {
		c := new(clickhouse.Columns)
		for seq := range uint64(500) {
			appendEvent(c, 1+batch*500+seq, november)
		}
		if err := f.Insert(t.Context(), c, fmt.Sprint("indexes:", batch)); err != nil {
			t.Fatal(err)
		}
	}
	const size = "SELECT data_compressed_bytes FROM system.data_skipping_indices WHERE database = currentDatabase() AND table = 'event_log' AND name = ?"
	if tags, ids := f.number(t, size, "tags"), f.number(t, size, "event_ids"); tags == 0 || ids != 0 {
		t.Errorf("after two inserts the index of filters has %d bytes, that of ids %d", tags, ids)
	}
	f.exec(t, "SYSTEM START MERGES event_log")
	f.exec(t, "OPTIMIZE TABLE event_log FINAL")
	if tags, ids := f.number(t, size, "tags"), f.number(t, size, "event_ids"); tags == 0 || ids == 0 {
		t.Errorf("after a merge the index of filters has %d bytes, that of ids %d", tags, ids)
	}
}

// Ensure a token is applied once, whatever rows come with it, and that read-back counts rows before merges fold them.
func TestInsertTokenCountsOnce(t *testing.T) {
	f := setup(t, shared, "")
	f.exec(t, "SYSTEM STOP MERGES event_log")
	for range 3 {
		if err := f.Insert(t.Context(), block(1, 50), "3:7:1"); err != nil {
			t.Fatal(err)
		}
	}
	f.wantSeqs(t, 1, 50)
	if err := f.Insert(t.Context(), block(40, 60), "3:7:2"); err != nil {
		t.Fatal(err)
	}
	if rows := f.number(t, "SELECT count() FROM event_log"); rows != 71 {
		t.Errorf("%d rows after another token, want 71", rows)
	}
	if got := f.readBack(t, 1, 60); len(got) != 60 {
		t.Errorf("read back %d sequences, want each once: 60", len(got))
	}
}

// Ensure copies of one event in one block all arrive: else read-back would miss sequences that were written.
func TestInsertKeepsCopies(t *testing.T) {
	f := setup(t, shared, "")
	f.exec(t, "SYSTEM STOP MERGES event_log")
	c := new(clickhouse.Columns)
	for seq := range uint64(3) {
		ev := events.Raw{CreatedAt: november, Metadata: []byte("{}")}
		c.Append(3, tenant, seq+1, time.UnixMicro(0), &ev)
	}
	if err := f.Insert(t.Context(), c, "copies"); err != nil {
		t.Fatal(err)
	}
	f.wantSeqs(t, 1, 3)
	f.exec(t, "SYSTEM START MERGES event_log")
	f.exec(t, "OPTIMIZE TABLE event_log FINAL")
	if got := f.readBack(t, 1, 3); len(got) != 1 || got[0] != 1 {
		t.Errorf("a merge leaves %v, want the first copy", got)
	}
}

func TestInsertNothing(t *testing.T) {
	f := setup(t, shared, "")
	if err := f.Insert(t.Context(), new(clickhouse.Columns), "none"); err != nil {
		t.Fatal(err)
	}
}

// Ensure read-back is bounded by partition, sequence and time.
func TestReadBackBounds(t *testing.T) {
	f := setup(t, shared, "")
	if err := f.Insert(t.Context(), block(1, 30), "b"); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		partition   int
		first, last uint64
		from, to    int64
		want        int
	}{
		{3, 1, 30, november, november + day, 30},
		{3, 10, 19, november, november + day, 10},
		{4, 1, 30, november, november + day, 0},
		{3, 31, 1 << 62, november, november + day, 0},
		{3, 1, 30, november + 5e6, november + 9e6, 5},
		{3, 1, 30, 0, 1, 0},
	} {
		got, err := f.ReadBack(t.Context(), tc.partition, tc.first, tc.last, tc.from, tc.to)
		if err != nil || len(got) != tc.want {
			t.Errorf("%+v: %d sequences, %v", tc, len(got), err)
		}
	}
}

// Ensure the store goes to the next host when one is away, and says so when none is there.
func TestHostsFailOver(t *testing.T) {
	f := setup(t, shared, "")
	dead := fmt.Sprintf("127.0.0.1:%d", closedPort(t))
	dsn := strings.Replace(f.dsn, "clickhouse://", "clickhouse://"+dead+",", 1)
	two := openStore(t, dsn)
	if err := two.Insert(t.Context(), block(1, 5), "f:1"); err != nil {
		t.Fatal(err)
	}
	if err := two.Settle(t.Context(), "f:"); err != nil {
		t.Fatal(err)
	}
	f.wantSeqs(t, 1, 5)
	none := openStore(t, "clickhouse://"+dead+"/x")
	for name, err := range map[string]error{
		"insert": none.Insert(t.Context(), block(1, 5), "f:2"), "settle": none.Settle(t.Context(), "f:"), "ping": none.Ping(t.Context()),
		"migrate": none.Migrate(t.Context()),
	} {
		if !errors.Is(err, clickhouse.ErrTransient) || errors.Is(err, clickhouse.ErrInDoubt) {
			t.Errorf("%s without a server: %v, want transient", name, err)
		}
	}
}

func TestOpenRefusesBadDSN(t *testing.T) {
	for _, dsn := range []string{"", "http://127.0.0.1:8123/audit", "clickhouse://h:9000/a?dial_timeout=soon"} {
		if s, err := clickhouse.Open(t.Context(), dsn, nil); err == nil {
			t.Errorf("Open(%q) gives no error", dsn)
			_ = s.Close()
		}
	}
}
