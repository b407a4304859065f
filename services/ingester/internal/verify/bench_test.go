package verify_test

import (
	"sync"
	"testing"

	"example.com/auditlog/pkg/events"
	"example.com/auditlog/services/ingester/internal/verify"
	"example.com/auditlog/services/ingester/internal/verify/verifytest"
)

// What a verification costs for each message, in batches of 5000: the shallow form asks only the ledger and the table for counts.
func BenchmarkVerify(b *testing.B) {
	const messages = 60_000
	f := verifytest.Setup(b, shared)
	f.Batch = 5000
	var wg sync.WaitGroup
	slots := make(chan struct{}, 1000)
	for i := range messages {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if _, err := f.JS.Publish(b.Context(), events.Subject(tenants[i%len(tenants)]), event(i)); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	f.Ingest(b)
	for name, opts := range map[string]verify.Options{"shallow": {}, "deep": {Deep: true}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if r := f.Verify(b, opts); !r.OK() || r.Messages != messages {
					b.Fatalf("%d messages, %v", r.Messages, r.Counts)
				}
			}
			b.ReportMetric(messages*float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
