package clickhouse_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/clickhouse"
)

// benchEvents are events of about 420 bytes of JSON, as the end-to-end benchmark has them.
func benchEvents(n int) []events.Raw {
	out := make([]events.Raw, n)
	for i := range out {
		out[i] = events.Raw{
			ID: uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, i)), CreatedAt: november + int64(i)*1000,
			ActorID: fmt.Appendf(nil, "user_%d", i*7919%5000), ActorType: []byte("user"), Action: fmt.Appendf(nil, "invoice.action_%d", i%40),
			ResourceType: []byte("invoice"), ResourceID: fmt.Appendf(nil, "inv_%d", i*104729%100000),
			Metadata:  fmt.Appendf(nil, `{"ip":"203.0.113.%d","user_agent":"Mozilla/5.0 (X11; Linux x86_64)","request_id":"%032x","amount":%d}`, i%256, i*2654435761, i),
			Reasoning: []byte("within the delegated limit"), HasReasoning: i%3 == 0,
		}
	}
	return out
}

func reportRows(b *testing.B, rows int) {
	b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

func fill(c *clickhouse.Columns, evs []events.Raw, base uint64) {
	at := time.UnixMicro(november)
	for i := range evs {
		c.Append(3, tenant, base+uint64(i), at, &evs[i])
	}
}

// What filling the columns costs, without a server.
func BenchmarkAppend(b *testing.B) {
	evs := benchEvents(10_000)
	var c clickhouse.Columns
	b.ReportAllocs()
	for b.Loop() {
		c.Reset()
		fill(&c, evs, 0)
	}
	b.SetBytes(int64(c.Bytes()))
	reportRows(b, len(evs))
}

// What one connection can send: into nothing, and into the table itself, by compression and rows a block.
func BenchmarkInsert(b *testing.B) {
	for _, engine := range []string{"Null", "table"} {
		for _, params := range []string{"compress=none", "compress=lz4"} {
			for _, rows := range []int{1_000, 10_000, 50_000} {
				b.Run(fmt.Sprintf("%s/%s/%d", engine, params, rows), func(b *testing.B) { benchmarkInsert(b, engine, params, rows) })
			}
		}
	}
}

func benchmarkInsert(b *testing.B, engine, params string, rows int) {
	f := setup(b, shared, params)
	s := f.Store
	if engine == "Null" {
		f.exec(b, "CREATE TABLE nothing AS event_log ENGINE = Null")
		s = f.WithTable("nothing")
	}
	evs := benchEvents(rows)
	var c clickhouse.Columns
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		c.Reset()
		fill(&c, evs, uint64(n*rows))
		if err := s.Insert(b.Context(), &c, fmt.Sprint("bench:", n)); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.SetBytes(int64(c.Bytes()))
	reportRows(b, rows)
}
